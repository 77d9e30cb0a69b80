// The page: a bundle, then a picture or the webcam, then boxes on the canvas and rows in the table.

import { readBundle } from "./bundle.js";
import { Detector } from "./detector.js";

const COLOURS = ["#e63c32", "#1e78dc", "#28a046", "#f0a000", "#9646c8", "#00aab4"];
const LARGEST = 64e6; // pixels of a picture
const element = (id) => document.getElementById(id);
const canvas = element("canvas");
const pen = canvas.getContext("2d", { willReadFrequently: true });
let bundle = null, detector = null, stream = null;

for (const [id, use] of [["zip", load], ["folder", load], ["picture", look]]) {
  element(id).addEventListener("change", (event) => {
    const chosen = [...event.target.files];
    event.target.value = ""; // so that the same file, changed meanwhile, can be chosen again
    attempt(() => use(chosen));
  });
}
element("selftest").addEventListener("click", () => attempt(selfTest));
element("webcam").addEventListener("click", () => attempt(webcam));

async function attempt(action) {
  try {
    say("Working...");
    await action();
  } catch (error) {
    say(error.message, true);
  }
}

async function load(chosen) {
  stop();
  setReady(false);
  bundle = await readBundle(chosen);
  detector = await Detector.open(bundle);
  setReady(true);
  say(`${bundle.manifest.model}: ${detector.names.join(", ")}`);
}

async function look([file]) {
  stop();
  const started = performance.now();
  const found = await detector.predict(await place(file), confidence());
  show(found);
  say(`${found.length} objects in ${Math.round(performance.now() - started)} ms`);
}

/** Draw a picture onto the canvas, turned by its EXIF; return its pixels. */
async function place(file) {
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  if (bitmap.width * bitmap.height > LARGEST) throw new Error(`expected at most ${LARGEST} pixels`);
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  pen.drawImage(bitmap, 0, 0);
  bitmap.close();
  return pen.getImageData(0, 0, canvas.width, canvas.height);
}

async function selfTest() {
  stop();
  const test = bundle.manifest.selftest;
  const found = await detector.predict(await place(new Blob([bundle.files.get(test.picture)])), test.confidence);
  const problems = test.detections.filter((wanted) => {
    const apart = (one) => Math.max(...one.box_xyxy.map((value, i) => Math.abs(value - wanted.box_xyxy[i])));
    const alike = found.filter((one) => one.class_id === wanted.class_id).sort((one, two) => apart(one) - apart(two));
    const near = alike.length && apart(alike[0]) <= test.box_tolerance;
    return !(near && Math.abs(alike[0].score - wanted.score) <= test.score_tolerance);
  });
  show(found.slice(0, test.detections.length));
  if (problems.length) throw new Error(problems.map((one) => `not found: ${one.name} ${one.score}`).join("; "));
  say("OK: this browser finds what it should");
}

async function webcam() {
  if (stream) {
    stop();
    say("Webcam stopped.");
    return;
  }
  stream = await navigator.mediaDevices.getUserMedia({ video: true });
  const video = document.createElement("video");
  video.srcObject = stream;
  await video.play();
  const mine = stream;
  while (stream === mine) {
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    pen.drawImage(video, 0, 0);
    const started = performance.now();
    const found = await detector.predict(pen.getImageData(0, 0, canvas.width, canvas.height), confidence());
    if (stream !== mine) return;
    show(found);
    say(`${found.length} objects, ${Math.round(1000 / (performance.now() - started))} pictures a second`);
    await new Promise(requestAnimationFrame);
  }
}

function stop() {
  if (stream) stream.getTracks().forEach((track) => track.stop());
  stream = null;
}

function confidence() {
  const value = element("confidence").value;
  return value === "" ? null : Number(value);
}

function show(found) {
  const rows = element("detections");
  rows.replaceChildren();
  const unit = Math.max(canvas.width / 640, 0.8);
  pen.lineWidth = 2 * unit;
  pen.font = `${14 * unit}px system-ui, sans-serif`;
  for (const one of found) {
    const [left, top, right, bottom] = one.box_xyxy;
    pen.strokeStyle = pen.fillStyle = COLOURS[one.class_id % COLOURS.length];
    pen.strokeRect(left, top, right - left, bottom - top);
    const label = `${one.name} ${one.score.toFixed(2)}`;
    pen.fillRect(left, top, pen.measureText(label).width + 6 * unit, 18 * unit);
    pen.fillStyle = "#ffffff";
    pen.fillText(label, left + 3 * unit, top + 14 * unit);
    const row = rows.insertRow();
    for (const text of [one.name, one.score.toFixed(3), one.box_xyxy.map((v) => v.toFixed(1)).join(", ")]) {
      row.insertCell().textContent = text; // text, never markup: names come from a file
    }
  }
  document.documentElement.dataset.found = JSON.stringify(found);
}

function say(text, isError = false) {
  element("status").textContent = text;
  element("status").className = isError ? "error" : "";
}

function setReady(ready) {
  for (const id of ["picture", "webcam", "selftest"]) element(id).disabled = !ready;
}
