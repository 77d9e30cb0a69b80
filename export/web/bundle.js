// Reading a bundle: a .zip, or the files of its folder. Nothing is used before its hash is what the manifest says.

const LARGEST = 2 ** 30; // bytes of all files together
const MOST = 64; // files
const PLAIN = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$/;

/** Read a bundle from one .zip File, or from the Files of a folder; returns {manifest, files: Map(name -> Uint8Array)}. */
export async function readBundle(chosen) {
  const isZip = chosen.length === 1 && chosen[0].name.toLowerCase().endsWith(".zip");
  const files = isZip ? await readZip(new Uint8Array(await chosen[0].arrayBuffer())) : await readFolder(chosen);
  if (!files.has("manifest.json")) throw new Error("expected a bundle, found no manifest.json");
  const manifest = readManifest(files.get("manifest.json"));
  for (const [name, entry] of Object.entries(manifest.files)) {
    if (!files.has(name)) throw new Error(`${name} is missing`);
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", files.get(name)));
    const hex = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
    if (hex !== entry.sha256) throw new Error(`${name} is not what its maker wrote`);
  }
  for (const name of [manifest.model, manifest.selftest.picture]) {
    if (!Object.hasOwn(manifest.files, name)) throw new Error(`${name} is no file of the bundle`);
  }
  return { manifest, files };
}

/** Read the manifest; what is used of it later has the type that it must have. */
function readManifest(bytes) {
  let manifest;
  try {
    manifest = JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    throw new Error("manifest.json is no JSON");
  }
  if (manifest?.format !== 1) throw new Error(`expected a bundle of format 1, got ${manifest?.format}`);
  const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
  const { names, thresholds, selftest } = manifest;
  const wrong = [
    ["files", isObject(manifest.files) && Object.values(manifest.files).every(isObject)],
    ["names", Array.isArray(names) && names.length > 0 && names.every((name) => typeof name === "string")],
    ["thresholds", Array.isArray(thresholds) && thresholds.length === names?.length && thresholds.every(Number.isFinite)],
    ["preprocessing", isObject(manifest.preprocessing)],
    ["selftest", isObject(selftest) && Array.isArray(selftest.detections) && selftest.detections.every(isObject)],
  ].filter(([, right]) => !right);
  if (wrong.length) throw new Error(`manifest.json is damaged: ${wrong.map(([name]) => name).join(", ")}`);
  return manifest;
}

async function readFolder(chosen) {
  const files = new Map();
  check(chosen.map((file) => file.name), chosen.reduce((sum, file) => sum + file.size, 0));
  for (const file of chosen) files.set(file.name, new Uint8Array(await file.arrayBuffer()));
  return files;
}

/** The format: PKWARE's APPNOTE 6.3, sections 4.3.7 (local header), 4.3.12 (central directory) and 4.3.16 (its end). */
async function readZip(bytes) {
  try {
    return await unzip(bytes);
  } catch (error) {
    if (error instanceof RangeError) throw new Error("the .zip is damaged: it ends before its contents do");
    throw error;
  }
}

async function unzip(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let end = bytes.length - 22;
  while (end >= 0 && view.getUint32(end, true) !== 0x06054b50) end -= 1;
  if (end < 0) throw new Error("expected a .zip, found no directory in it");
  const entries = [];
  let position = view.getUint32(end + 16, true);
  for (let i = view.getUint16(end + 10, true); i > 0; i -= 1) {
    if (view.getUint32(position, true) !== 0x02014b50) throw new Error("the directory of the .zip is broken");
    const nameLength = view.getUint16(position + 28, true);
    entries.push({
      name: new TextDecoder().decode(bytes.subarray(position + 46, position + 46 + nameLength)),
      flags: view.getUint16(position + 8, true),
      method: view.getUint16(position + 10, true),
      packed: view.getUint32(position + 20, true),
      size: view.getUint32(position + 24, true),
      offset: view.getUint32(position + 42, true),
    });
    position += 46 + nameLength + view.getUint16(position + 30, true) + view.getUint16(position + 32, true);
  }
  check(entries.map((entry) => entry.name), entries.reduce((sum, entry) => sum + entry.size, 0));
  const files = new Map();
  for (const entry of entries) {
    const start = entry.offset + 30 + view.getUint16(entry.offset + 26, true) + view.getUint16(entry.offset + 28, true);
    const data = bytes.subarray(start, start + entry.packed);
    if (files.has(entry.name) || entry.flags & 1 || ![0, 8].includes(entry.method)) {
      throw new Error(`${entry.name} is there twice, encrypted, or packed in an unknown way`);
    }
    const content = entry.method === 8 ? await inflate(data, entry.size, entry.name) : data;
    if (content.length !== entry.size) throw new Error(`${entry.name} lies about its size`);
    files.set(entry.name, content);
  }
  return files;
}

/** Unpack no more than the entry admits to. */
async function inflate(data, size, name) {
  const content = new Uint8Array(size);
  let filled = 0;
  const reader = new Blob([data]).stream().pipeThrough(new DecompressionStream("deflate-raw")).getReader();
  const read = () => reader.read().catch(() => {
    throw new Error(`${name} is damaged: it cannot be unpacked`);
  });
  for (let part = await read(); !part.done; part = await read()) {
    if (filled + part.value.length > size) throw new Error(`${name} lies about its size`);
    content.set(part.value, filled);
    filled += part.value.length;
  }
  return content.subarray(0, filled);
}

function check(names, size) {
  const odd = names.find((name) => !PLAIN.test(name));
  if (odd !== undefined) throw new Error(`expected plain file names, got ${JSON.stringify(odd.slice(0, 120))}`);
  if (names.length > MOST || size > LARGEST) throw new Error(`expected at most ${MOST} files of ${LARGEST} bytes together`);
}
