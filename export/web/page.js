// The page: a bundle, then a picture or the webcam, then what was found on the canvas and in the rows of the table.

import { readBundle } from "./bundle.js";
import { Detector } from "./detector.js";
import { drawObjects, printable } from "./drawing.js";
import { missing } from "./selftest.js";

const LARGEST = 64e6; // pixels of a picture
const READABLE = 640; // pixels of its longest side, at least, when boxes are drawn
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

const area = element("drop");
for (const kind of ["dragenter", "dragover"]) {
  addEventListener(kind, (event) => { event.preventDefault(); area.classList.add("over"); });
}
addEventListener("dragleave", (event) => { if (event.relatedTarget === null) area.classList.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  area.classList.remove("over");
  const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const files = [...event.dataTransfer.files];
  attempt(async () => dropped(await filesOf(entries, files)));
});

/** Return the files that were dropped; of a folder those in it. */
async function filesOf(entries, files) {
  const folder = entries.find((entry) => entry.isDirectory);
  if (!folder) return files;
  const reader = folder.createReader(), found = [];
  for (let part = await next(reader); part.length; part = await next(reader)) found.push(...part);
  return Promise.all(
    found.filter((entry) => entry.isFile).map((entry) => new Promise((done, failed) => entry.file(done, failed))),
  );
}

function next(reader) {
  return new Promise((done, failed) => reader.readEntries(done, failed));
}

async function dropped(files) {
  const bundled = files.some((file) => file.name === "manifest.json" || file.name.toLowerCase().endsWith(".zip"));
  if (bundled) return load(files);
  if (files.length !== 1) throw new Error(`expected a bundle or one picture, got ${files.length} files`);
  if (!detector) throw new Error("choose a bundle first, then a picture");
  return look(files);
}

async function attempt(action) {
  try {
    say("Working...");
    await action();
  } catch (error) {
    say(sentence(error), true);
  }
}

/** Say in a sentence what went wrong, whatever was thrown. */
function sentence(error) {
  const refused = { NotAllowedError: "the camera may not be used", NotFoundError: "there is no camera or file" };
  const text = printable(refused[error?.name] ?? error?.message ?? error).trim() || "something went wrong";
  const first = /^[a-z]+[ ,:]/.test(text) ? text[0].toUpperCase() : text[0]; // a file's name stays as it is
  return `${first}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;
}

async function load(chosen) {
  stop();
  setReady(false);
  bundle = detector = null;
  const read = await readBundle(chosen);
  detector = await Detector.open(read);
  bundle = read;
  setReady(true);
  say(`${bundle.manifest.model}: ${printable(detector.names.join(", "))}`);
}

async function look([file]) {
  if (!file) return say("No picture was chosen.");
  stop();
  const started = performance.now();
  const found = await detector.predict(await place(file), confidence());
  show(found);
  say(`${found.length} objects in ${Math.round(performance.now() - started)} ms`);
}

/** Draw a picture onto the canvas, turned by its EXIF; return its pixels. */
async function place(file) {
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" }).catch(() => {
    throw new Error(`expected a picture that this browser can read, got ${file.name ?? "something else"}`);
  });
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
  const problems = missing(test, found);
  show(found.slice(0, test.detections.length));
  if (problems.length) throw new Error(`not found: ${problems.map((one) => `${one.name} ${one.score}`).join("; ")}`);
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
  const field = element("confidence");
  if (!field.validity.valid && !field.validity.stepMismatch) throw new Error("lowest score: expected a number from 0 to 1");
  return field.value === "" ? null : Number(field.value);
}

function show(found) {
  const rows = element("detections");
  rows.replaceChildren();
  document.documentElement.dataset.labels = JSON.stringify(drawObjects(pen, found, enlarge()));
  for (const one of found) {
    const row = rows.insertRow();
    for (const text of [printable(one.name), one.score.toFixed(3), one.box_xyxy.map((v) => v.toFixed(1)).join(", ")]) {
      row.insertCell().textContent = text; // text, never markup: names come from a file
    }
  }
  document.documentElement.dataset.found = JSON.stringify(found);
}

/** Enlarge a small picture, so that labels have room and can be read; return how many times. */
function enlarge() {
  const zoom = Math.ceil(READABLE / Math.max(canvas.width, canvas.height));
  if (zoom <= 1) return 1;
  const picture = document.createElement("canvas");
  [picture.width, picture.height] = [canvas.width, canvas.height];
  picture.getContext("2d").drawImage(canvas, 0, 0);
  [canvas.width, canvas.height] = [canvas.width * zoom, canvas.height * zoom];
  pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
  return zoom;
}

function say(text, isError = false) {
  element("status").textContent = text;
  element("status").className = isError ? "error" : "";
}

function setReady(ready) {
  for (const id of ["picture", "webcam", "selftest"]) element(id).disabled = !ready;
}
