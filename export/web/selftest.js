// What a self-test compares, as export/detect.py does.

import { pixelsOf } from "./tasks.js";

const SEEN = 0.5; // keypoints that are less surely visible are not compared

/** Return which of the expected detections were not found. */
export function missing(test, found) {
  return test.detections.filter((wanted) => !found.some((one) => one.class_id === wanted.class_id && alike(wanted, one, test)));
}

function alike(wanted, found, test) {
  const apart = Math.max(...found.box_xyxy.map((value, i) => Math.abs(value - wanted.box_xyxy[i])));
  return (
    apart <= test.box_tolerance &&
    Math.abs(found.score - wanted.score) <= test.score_tolerance &&
    (!wanted.segmentation || masksAlike(wanted.segmentation, found.segmentation, test.mask_tolerance)) &&
    (!wanted.keypoints || keypointsAlike(wanted, found.keypoints, test.keypoint_tolerance)) &&
    (!wanted.obb || anglesAlike(wanted.obb, found.obb, test.angle_tolerance))
  );
}

function masksAlike(wanted, found, tolerance) {
  if (wanted.size[0] !== found.size[0] || wanted.size[1] !== found.size[1]) return false;
  const [one, other] = [pixelsOf(wanted), pixelsOf(found)];
  let both = 0, any = 0;
  one.forEach((on, i) => {
    both += on & other[i];
    any += on | other[i];
  });
  return !one.includes(1) || 1 - both / any <= tolerance;
}

function keypointsAlike({ keypoints, box_xyxy: [left, top, right, bottom] }, found, tolerance) {
  const side = Math.max(right - left, bottom - top, 1);
  const off = keypoints
    .map(([x, y, visible], i) => [Math.hypot(x - found[i][0], y - found[i][1]) / side, visible])
    .filter(([, visible]) => visible >= SEEN);
  return !off.length || off.reduce((sum, [distance]) => sum + distance, 0) / off.length <= tolerance;
}

/** A quarter exchanges the sides, which moves the box; a square has no angle. */
function anglesAlike([, , width, height, angle], found, tolerance) {
  const turned = Math.abs(found[4] - angle) % (Math.PI / 2);
  const ratio = Math.min(width, height) / Math.max(width, height, 1);
  return Math.min(turned, Math.PI / 2 - turned) * (1 - ratio) <= tolerance;
}
