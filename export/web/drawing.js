// Boxes, masks and keypoints with labels on a canvas: one colour a class, the stronger object on top, and no label over
// another where there is room.

import { cornersOf, pixelsOf } from "./tasks.js";

const LONGEST = 40; // characters of a name
const FILL = 115; // of 255: how much of its colour a mask has
const SEEN = 0.5; // keypoints that are less surely visible are not drawn
const LIMBS = [ // of COCO's 17 keypoints of a person
  [0, 1], [0, 2], [1, 3], [2, 4], [3, 5], [4, 6], [5, 6], [5, 11], [6, 12], [11, 12],
  [5, 7], [7, 9], [11, 13], [13, 15], [6, 8], [8, 10], [12, 14], [14, 16],
];
const CONTROL = /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]/gu; // with u, whole pairs are letters

/** Return a colour of its own for each class: hues by the golden ratio, neighbours far apart. */
export function classColour(index) {
  const value = 0.95 - 0.2 * (index % 2);
  const [hue, saturation] = [((0.02 + index * 0.618034) % 1) * 6, 0.75];
  const part = (n) => {
    const k = (n + hue) % 6;
    return Math.round(255 * (value - value * saturation * Math.max(0, Math.min(k, 4 - k, 1))));
  };
  return [part(5), part(3), part(1)];
}

/** Return text that cannot turn what follows around: marks that nobody sees are written as escapes. */
export function printable(text) {
  return String(text).replace(CONTROL, (mark) => `\\u${mark.codePointAt(0).toString(16).padStart(4, "0")}`);
}

/** Draw what was found, enlarged `zoom` times, and return the places of the labels (left, top, width, height). */
export function drawObjects(pen, objects, zoom = 1) {
  const { width, height } = pen.canvas;
  const found = objects.map((one) => ({ ...one, box_xyxy: one.box_xyxy.map((value) => value * zoom) }));
  const unit = Math.max(Math.max(width, height) / 640, 0.8);
  const strongest = [...found].sort((one, two) => two.score - one.score);
  const colour = (one) => `rgb(${classColour(one.class_id).join(",")})`;
  for (const one of [...strongest].reverse()) {
    if (one.segmentation) {
      pen.drawImage(painted(one.segmentation, classColour(one.class_id)), 0, 0, width, height);
      continue;
    }
    const outline = shapeOf(one, zoom);
    for (const [line, style] of [[4 * unit, "#0009"], [2 * unit, colour(one)]]) {
      pen.lineWidth = line;
      pen.strokeStyle = style;
      pen.stroke(outline);
    }
    for (const [x, y, visible] of one.keypoints ?? []) {
      if (visible < SEEN) continue;
      pen.beginPath();
      pen.arc(x * zoom, y * zoom, 3 * unit, 0, 2 * Math.PI);
      pen.fillStyle = "#fff";
      pen.fill();
      pen.lineWidth = unit;
      pen.stroke();
    }
  }
  pen.font = `600 ${13 * unit}px system-ui, sans-serif`;
  pen.textBaseline = "middle";
  const taken = [];
  for (const one of strongest) {
    const label = `${shortened(printable(one.name))} ${one.score.toFixed(2)}`;
    const plate = { width: Math.min(pen.measureText(label).width + 8 * unit, width), height: 18 * unit };
    const place = placeLabel(one.box_xyxy, plate, [width, height], taken);
    if (taken.some((other) => overlap(place, other) > 0)) continue; // the table below has it
    taken.push(place);
    pen.fillStyle = colour(one);
    pen.fillRect(...place);
    const [red, green, blue] = classColour(one.class_id);
    pen.fillStyle = 0.299 * red + 0.587 * green + 0.114 * blue > 140 ? "#282828" : "#ffffff"; // luma of BT.601
    pen.fillText(label, place[0] + 4 * unit, place[1] + place[3] / 2, place[2] - 6 * unit);
  }
  return taken;
}

/** Return the lines of an object: its box, or its oriented one, and its limbs where it has the keypoints of a person. */
function shapeOf({ box_xyxy: [left, top, right, bottom], obb, keypoints }, zoom) {
  const shape = new Path2D();
  if (obb) {
    cornersOf(obb).forEach(([x, y], i) => (i ? shape.lineTo(x * zoom, y * zoom) : shape.moveTo(x * zoom, y * zoom)));
    shape.closePath();
  } else {
    shape.rect(left, top, right - left, bottom - top);
  }
  for (const [start, end] of keypoints?.length === 17 ? LIMBS : []) {
    const ends = [keypoints[start], keypoints[end]];
    if (ends.some(([, , visible]) => visible < SEEN)) continue;
    shape.moveTo(ends[0][0] * zoom, ends[0][1] * zoom);
    shape.lineTo(ends[1][0] * zoom, ends[1][1] * zoom);
  }
  return shape;
}

/** Return a canvas with a mask, through which the picture shows, and its outline. */
function painted(segmentation, [red, green, blue]) {
  const [height, width] = segmentation.size;
  const pixels = pixelsOf(segmentation);
  const layer = Object.assign(document.createElement("canvas"), { width, height });
  const content = new ImageData(width, height);
  pixels.forEach((on, i) => {
    if (!on) return;
    const column = i % width;
    const inner = column > 0 && column < width - 1 && pixels[i - 1] && pixels[i + 1] && pixels[i - width] && pixels[i + width];
    content.data.set([red, green, blue, inner ? FILL : 255], 4 * i);
  });
  layer.getContext("2d").putImageData(content, 0, 0);
  return layer;
}

function placeLabel([left, top, right, bottom], { width, height }, [canvasWidth, canvasHeight], taken) {
  const corners = [
    [left, top - height], [left, bottom], [left, top], [left, bottom - height],
    [right - width, top], [right - width, bottom - height], [right - width, top - height], [right - width, bottom],
  ];
  const places = corners.map(([x, y]) => {
    const inside = [Math.max(Math.min(x, canvasWidth - width), 0), Math.max(Math.min(y, canvasHeight - height), 0)];
    const place = [...inside, width, height];
    const hidden = taken.reduce((sum, other) => sum + overlap(place, other), 0);
    return { place, hidden, moved: inside[0] !== x || inside[1] !== y };
  });
  places.sort((one, two) => one.hidden - two.hidden || one.moved - two.moved);
  return places[0].place;
}

function overlap(one, two) {
  const across = Math.min(one[0] + one[2], two[0] + two[2]) - Math.max(one[0], two[0]);
  const down = Math.min(one[1] + one[3], two[1] + two[3]) - Math.max(one[1], two[1]);
  return Math.max(across, 0) * Math.max(down, 0);
}

function shortened(name) {
  const letters = [...name];
  return letters.length <= LONGEST ? name : `${letters.slice(0, LONGEST / 2).join("")}…${letters.slice(-LONGEST / 2 + 1).join("")}`;
}
