// The detector of export/detect.py in JavaScript: the same letterbox to the bit, the same decoding and suppression.

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

import { extrasOf, keypointsOf, maskOf, placeRotated, suppressRotated, toPicture } from "./tasks.js";

ort.env.wasm.wasmPaths = new URL("./node_modules/onnxruntime-web/dist/", import.meta.url).href;

const PADDING = 114;
const IOU_THRESHOLD = 0.7;
const MAX_DETECTIONS = 300;
const MAX_CANDIDATES = 30000; // that enter suppression, the best first

export class Detector {
  /** Open the model of a bundle (see bundle.js). */
  static async open({ manifest, files }) {
    const { letterbox, padding, channels, scale, image_size: size } = manifest.preprocessing;
    if (letterbox !== "square" || padding !== PADDING || channels !== "RGB" || scale !== "1/255") {
      throw new Error(`expected another preprocessing, got ${JSON.stringify(manifest.preprocessing)}`);
    }
    if (!Number.isInteger(size) || size < 32 || size > 4096) throw new Error(`expected a size in pixels, got ${size}`);
    const options = { executionProviders: ["wasm"] };
    const session = await ort.InferenceSession.create(files.get(manifest.model), options).catch((error) => {
      throw new Error(`${manifest.model}: onnxruntime cannot open it: ${error?.message ?? error}`);
    });
    return new Detector(session, manifest, size);
  }

  constructor(session, manifest, size) {
    this.session = session;
    this.names = manifest.names;
    this.thresholds = manifest.thresholds;
    this.size = size;
    this.task = manifest.task ?? "detect"; // earlier versions knew no other
    this.sizes = manifest.task_settings ?? {};
    this.extras = extrasOf(this.task, this.sizes);
  }

  /** Find the objects in ImageData; confidence null takes the bundle's thresholds, one a class. */
  async predict(image, confidence = null) {
    const placed = letterbox(image, this.size);
    const input = new ort.Tensor("float32", placed.tensor, [1, 3, this.size, this.size]);
    const outputs = await this.session.run({ [this.session.inputNames[0]]: input });
    const [output, prototypes] = this.session.outputNames.map((name) => outputs[name]);
    const rows = 4 + this.names.length + this.extras;
    if (output.dims.length !== 3 || output.dims[1] !== rows) {
      throw new Error(`expected ${rows} rows of output for ${this.names.length} classes, got [${output.dims.join(", ")}]`);
    }
    if (this.task === "segment" && prototypes?.dims[1] !== this.extras) {
      throw new Error(`expected ${this.extras} prototypes of masks, got [${prototypes?.dims.join(", ")}]`);
    }
    const limits = this.names.map((_, i) => (confidence === null ? this.thresholds[i] : confidence));
    return this.kept(output.data, output.dims[2], limits).map(({ classId, score, anchor, box }) => {
      const values = (from, count) => Array.from({ length: count }, (_, i) => output.data[(from + i) * output.dims[2] + anchor]);
      const extras = values(4 + this.names.length, this.extras);
      const found = { name: this.names[classId], class_id: classId, score };
      if (this.task === "obb") return { ...found, ...placeRotated(box, placed, image) };
      found.box_xyxy = [...toPicture(box.slice(0, 2), placed, image), ...toPicture(box.slice(2), placed, image)];
      if (this.task === "segment") found.segmentation = maskOf(found.box_xyxy, extras, prototypes, placed, image);
      if (this.task === "pose") found.keypoints = keypointsOf(extras, this.sizes, placed, image);
      return found;
    });
  }

  /** Return what counts, best first, after suppression: boxes are corners, or centre, sides and angle of oriented ones. */
  kept(data, anchors, limits) {
    const rotated = this.task === "obb";
    const candidates = [];
    for (let classId = 0; classId < limits.length; classId += 1) {
      for (let anchor = 0; anchor < anchors; anchor += 1) {
        const score = data[(4 + classId) * anchors + anchor];
        if (!(score > limits[classId])) continue;
        const [x, y, w, h] = [0, 1, 2, 3].map((row) => data[row * anchors + anchor]);
        const angle = data[(4 + limits.length) * anchors + anchor];
        const box = rotated ? [x, y, w, h, angle] : [x - w / 2, y - h / 2, x + w / 2, y + h / 2].map(Math.fround);
        candidates.push({ classId, score, anchor, box });
      }
    }
    candidates.sort((one, two) => two.score - one.score); // stable, as in Python
    return (rotated ? suppressRotated : suppress)(candidates.slice(0, MAX_CANDIDATES), IOU_THRESHOLD, MAX_DETECTIONS);
  }
}

function suppress(candidates, threshold, most) {
  const kept = [];
  for (const candidate of candidates) {
    if (kept.length === most) break;
    const covered = kept.some((k) => k.classId === candidate.classId && overlap(k.box, candidate.box) > threshold);
    if (!covered) kept.push(candidate);
  }
  return kept;
}

/** Fit ImageData into a grey square: float32 RGB planes in [0, 1], scale and offset (x, y). */
export function letterbox(image, size) {
  const { width, height } = image;
  const scale = Math.min(size / height, size / width);
  const newWidth = Math.max(roundToEven(width * scale), 1);
  const newHeight = Math.max(roundToEven(height * scale), 1);
  const left = roundToEven((size - newWidth) / 2 - 0.1);
  const top = roundToEven((size - newHeight) / 2 - 0.1);
  const resized = resize(image, newWidth, newHeight);
  const plane = size * size;
  const tensor = new Float32Array(3 * plane).fill(Math.fround(PADDING / 255));
  for (let y = 0; y < newHeight; y += 1) {
    for (let x = 0; x < newWidth; x += 1) {
      const from = (y * newWidth + x) * 3;
      const to = (y + top) * size + x + left;
      for (let channel = 0; channel < 3; channel += 1) tensor[channel * plane + to] = resized[from + channel] / 255;
    }
  }
  return { tensor, scale: [newWidth / width, newHeight / height], offset: [left, top] };
}

/** Resize RGBA pixels bilinearly to RGB in the fixed-point arithmetic of OpenCV (11 bits). */
function resize({ data, width, height }, newWidth, newHeight) {
  const result = new Uint8Array(newWidth * newHeight * 3);
  const same = width === newWidth && height === newHeight;
  const across = axis(width, newWidth);
  const down = axis(height, newHeight);
  for (let y = 0; y < newHeight; y += 1) {
    for (let x = 0; x < newWidth; x += 1) {
      for (let channel = 0; channel < 3; channel += 1) {
        const at = (row, column) => data[(row * width + column) * 4 + channel];
        const to = (y * newWidth + x) * 3 + channel;
        if (same) {
          result[to] = at(y, x);
          continue;
        }
        const row = (line) =>
          (at(line, across.low[x]) * across.weightLow[x] + at(line, across.high[x]) * across.weightHigh[x]) >> 4;
        const total = ((row(down.low[y]) * down.weightLow[y]) >> 16) + ((row(down.high[y]) * down.weightHigh[y]) >> 16);
        result[to] = (total + 2) >> 2;
      }
    }
  }
  return result;
}

function axis(old, size) {
  const low = new Int32Array(size), high = new Int32Array(size);
  const weightLow = new Int32Array(size), weightHigh = new Int32Array(size);
  for (let i = 0; i < size; i += 1) {
    const position = Math.fround((i + 0.5) * (old / size) - 0.5);
    const floor = Math.floor(position);
    const weight = Math.fround(position - floor);
    low[i] = Math.min(Math.max(floor, 0), old - 1);
    high[i] = Math.min(Math.max(floor + 1, 0), old - 1);
    weightLow[i] = roundToEven(Math.fround(1 - weight) * 2048);
    weightHigh[i] = roundToEven(weight * 2048);
  }
  return { low, high, weightLow, weightHigh };
}

function overlap(one, two) {
  const width = Math.max(Math.min(one[2], two[2]) - Math.max(one[0], two[0]), 0);
  const height = Math.max(Math.min(one[3], two[3]) - Math.max(one[1], two[1]), 0);
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  return (width * height) / Math.max(area(one) + area(two) - width * height, 1e-12);
}

/** Python's round: halves go to the even number. */
function roundToEven(value) {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}
