// What a task finds beside boxes, computed as in export/detect.py: masks, keypoints, oriented boxes.

const CELL = 4; // pixels of the input a cell of a prototype has
const EPSILON = 1e-7;

/** Return how many rows a prediction has behind the scores. */
export function extrasOf(task, sizes) {
  const extras = { detect: 0, segment: sizes.coefficients, pose: sizes.keypoints * sizes.dims, obb: 1 };
  const whole = Object.values(sizes).every((size) => Number.isInteger(size) && size > 0) && [2, 3].includes(sizes.dims ?? 2);
  if (!Object.hasOwn(extras, task) || !whole || !Number.isInteger(extras[task])) {
    throw new Error(`expected a detector of ${Object.keys(extras).join(", ")}, got ${task} with ${JSON.stringify(sizes)}`);
  }
  return extras[task];
}

/** Return a point of the input in pixels of the picture, clipped to it. */
export function toPicture([x, y], { scale, offset }, { width, height }) {
  return [clamp((x - offset[0]) / scale[0], width), clamp((y - offset[1]) / scale[1], height)];
}

/** Return [x, y, how surely it is visible] of each keypoint. */
export function keypointsOf(extras, { dims }, placed, image) {
  const points = [];
  for (let i = 0; i < extras.length; i += dims) {
    points.push([...toPicture(extras.slice(i, i + 2), placed, image), dims === 3 ? extras[i + 2] : 1]);
  }
  return points;
}

/** Return an oriented box of the input (x, y, width, height, angle in [0, pi / 2)) in the picture, and the box around it. */
export function placeRotated([x, y, width, height, angle], placed, image) {
  const quarters = Math.floor(angle / (Math.PI / 2));
  const sides = quarters % 2 ? [height, width] : [width, height];
  const turned = angle - quarters * (Math.PI / 2);
  const corners = cornersOf([x, y, ...sides, turned]);
  const [xs, ys] = [corners.map((corner) => corner[0]), corners.map((corner) => corner[1])];
  const mean = Math.sqrt(placed.scale[0] * placed.scale[1]); // the two differ by rounding
  const centre = [(x - placed.offset[0]) / placed.scale[0], (y - placed.offset[1]) / placed.scale[1]];
  return {
    box_xyxy: [
      ...toPicture([Math.min(...xs), Math.min(...ys)], placed, image),
      ...toPicture([Math.max(...xs), Math.max(...ys)], placed, image),
    ],
    obb: [...centre, sides[0] / mean, sides[1] / mean, turned],
  };
}

/** Return the four corners [x, y] of an oriented box. */
export function cornersOf([x, y, width, height, angle]) {
  const [cos, sin] = [Math.cos(angle) / 2, Math.sin(angle) / 2];
  return [[1, 1], [1, -1], [-1, -1], [-1, 1]].map(([a, b]) => [
    x + a * width * cos - b * height * sin,
    y + a * width * sin + b * height * cos,
  ]);
}

/** Return the candidates (best first) that overlap no better one of their class, whether that one stays or not. */
export function suppressRotated(candidates, threshold, most) {
  // Farther apart than this, by their longer sides, none overlaps so much: it saves most of the work.
  const reach = (1.01 * -Math.log(Math.max(1 - (1 - threshold) ** 2, EPSILON))) / 3;
  const all = candidates.map(({ box }) => ({ moments: momentsOf(box), spread: reach * (Math.max(box[2], box[3]) ** 2 + 12) }));
  const kept = [];
  for (let i = 0; i < candidates.length && kept.length < most; i += 1) {
    const { classId, box } = candidates[i];
    let covered = false;
    for (let j = 0; j < i && !covered; j += 1) {
      if (candidates[j].classId !== classId) continue;
      const [dx, dy] = [candidates[j].box[0] - box[0], candidates[j].box[1] - box[1]];
      if (dx * dx + dy * dy > all[i].spread + all[j].spread) continue;
      covered = probiou(dx, dy, all[i].moments, all[j].moments) > threshold;
    }
    if (!covered) kept.push(candidates[i]);
  }
  return kept;
}

function momentsOf([, , width, height, angle]) {
  const [along, across, cos, sin] = [width ** 2 / 12, height ** 2 / 12, Math.cos(angle), Math.sin(angle)];
  return [along * cos ** 2 + across * sin ** 2, along * sin ** 2 + across * cos ** 2, (along - across) * cos * sin];
}

/** How much two Gaussians overlap: 1 less their Hellinger distance (arXiv 2106.06072, eq. 6 to 8). */
function probiou(dx, dy, one, other) {
  const [x, y, both] = one.map((value, i) => value + other[i]);
  const determinant = x * y - both ** 2;
  const own = [one, other].reduce((product, [a, b, c]) => product * Math.max(a * b - c ** 2, 0), 1);
  const apart = (x * dy ** 2 + y * dx ** 2 - 2 * both * dx * dy) / (determinant + EPSILON) / 4;
  const distance = apart + Math.log(determinant / (4 * Math.sqrt(own) + EPSILON) + EPSILON) / 2;
  return 1 - Math.sqrt(1 - Math.exp(-Math.min(Math.max(distance, EPSILON), 100)) + EPSILON);
}

/** Return a mask as COCO's compressed RLE: where the sum of factors times prototypes is above 0, inside the box. */
export function maskOf(box, factors, prototypes, { scale, offset }, { width, height }) {
  const [left, top, right, bottom] = box.map((value, i) => clamp(Math.ceil(value), i % 2 ? height : width));
  const [, , rows, columns] = prototypes.dims;
  const logits = new Float32Array(rows * columns);
  factors.forEach((factor, i) => {
    const from = i * logits.length;
    for (let cell = 0; cell < logits.length; cell += 1) logits[cell] += factor * prototypes.data[from + cell];
  });
  const place = (pixel, axis, cells) => {
    const position = clamp(((pixel + 0.5) * scale[axis] + offset[axis]) / CELL - 0.5, cells - 1);
    const low = Math.min(Math.floor(position), cells - 2);
    return [low, position - low];
  };
  const across = Array.from({ length: right - left }, (_, i) => place(left + i, 0, columns));
  const down = Array.from({ length: bottom - top }, (_, i) => place(top + i, 1, rows));
  const runs = [];
  let begun = 0, on = false; // column by column, off and on in turns
  const turn = (position) => {
    runs.push(position - begun);
    [begun, on] = [position, !on];
  };
  across.forEach(([x, weight], i) => {
    const column = (left + i) * height;
    down.forEach(([y, under], j) => {
      const line = (row) => logits[row * columns + x] * (1 - weight) + logits[row * columns + x + 1] * weight;
      if ((line(y) * (1 - under) + line(y + 1) * under > 0) !== on) turn(column + top + j);
    });
    if (on && (bottom < height || top > 0 || i === across.length - 1)) turn(column + bottom);
  });
  if (begun < width * height) runs.push(width * height - begun);
  return { size: [height, width], counts: runs.map((run, i) => runText(run - (i > 2 ? runs[i - 2] : 0))).join("") };
}

/** 5 bits a character, the lowest first, and a sixth where more follow. */
function runText(value) {
  const bits = value & 31, rest = value >> 5;
  return rest === (bits & 16 ? -1 : 0) ? String.fromCharCode(48 + bits) : String.fromCharCode(80 + bits) + runText(rest);
}

/** Return the pixels of a mask, row by row, as 0 and 1. */
export function pixelsOf({ size: [height, width], counts }) {
  const runs = [];
  let value = 0, shift = 0;
  for (const letter of counts) {
    const bits = letter.charCodeAt(0) - 48;
    value |= (bits & 31) << shift;
    shift += 5;
    if (bits & 32) continue;
    if (bits & 16 && shift < 32) value -= 1 << shift;
    runs.push(value + (runs.length > 2 ? runs.at(-2) : 0));
    [value, shift] = [0, 0];
  }
  const total = runs.reduce((sum, run) => sum + run, 0);
  if (total !== width * height || runs.some((run) => run < 0)) throw new Error("a mask of the manifest is damaged");
  const pixels = new Uint8Array(width * height);
  let position = 0;
  runs.forEach((run, i) => {
    for (const end = position + run; position < end; position += 1) {
      pixels[(position % height) * width + Math.floor(position / height)] = i % 2;
    }
  });
  return pixels;
}

function clamp(value, most) {
  return Math.min(Math.max(value, 0), most);
}
