// Boxes with labels on a canvas, as visionlora/drawing.py draws them: one colour a class, the stronger box on top, and no
// label over another where there is room.

const LONGEST = 40; // characters of a name
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

/** Draw what was found, the boxes times `zoom`, and return the places of the labels (left, top, width, height). */
export function drawBoxes(pen, objects, zoom = 1) {
  const { width, height } = pen.canvas;
  const found = objects.map((one) => ({ ...one, box_xyxy: one.box_xyxy.map((value) => value * zoom) }));
  const unit = Math.max(Math.max(width, height) / 640, 0.8);
  const strongest = [...found].sort((one, two) => two.score - one.score);
  const colour = (one) => `rgb(${classColour(one.class_id).join(",")})`;
  for (const one of [...strongest].reverse()) {
    const [left, top, right, bottom] = one.box_xyxy;
    for (const [line, style] of [[4 * unit, "#0009"], [2 * unit, colour(one)]]) {
      pen.lineWidth = line;
      pen.strokeStyle = style;
      pen.strokeRect(left, top, right - left, bottom - top);
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
