// Boxes and points in an answer: Qwen3-VL writes JSON objects with coordinates from 0 to 1000, relative to the picture.

const FULL_SCALE = 1000;
const MAX_OBJECT_CHARS = 2000;
const MAX_MARKS = 300;

// Read object by object, so that an answer under way, or cut, shows what it has.
export function findMarks(text) {
  if (!hasMarks(text)) return [];
  const marks = [];
  for (let start = text.indexOf("{"); start >= 0 && marks.length < MAX_MARKS; ) {
    const end = findEnd(text, start);
    const mark = end < 0 ? null : readMark(text.slice(start, end));
    if (mark) marks.push(mark);
    start = text.indexOf("{", mark ? end : start + 1);
  }
  return marks;
}

export function hasMarks(text) {
  return text.includes('"bbox_2d"') || text.includes('"point_2d"');
}

// Just behind the brace that closes the one at `start`; -1 if there is none near.
function findEnd(text, start) {
  const limit = Math.min(text.length, start + MAX_OBJECT_CHARS);
  let depth = 0;
  let isString = false;
  for (let at = start; at < limit; at += 1) {
    const character = text[at];
    if (isString) {
      if (character === "\\") at += 1;
      else if (character === '"') isString = false;
    } else if (character === '"') isString = true;
    else if (character === "{") depth += 1;
    else if (character === "}" && --depth === 0) return at + 1;
  }
  return -1;
}

function readMark(json) {
  let object;
  try {
    object = JSON.parse(json);
  } catch {
    return null;
  }
  const label = typeof object.label === "string" ? object.label : "";
  const box = readNumbers(object.bbox_2d, 4);
  if (box) {
    const [x1, y1, x2, y2] = box;
    const [left, right, top, bottom] = [Math.min(x1, x2), Math.max(x1, x2), Math.min(y1, y2), Math.max(y1, y2)];
    return { label, left, top, width: right - left, height: bottom - top };
  }
  const point = readNumbers(object.point_2d, 2);
  return point ? { label, left: point[0], top: point[1], width: 0, height: 0, isPoint: true } : null;
}

// As shares of the picture's sides.
function readNumbers(values, count) {
  if (!Array.isArray(values) || values.length !== count) return null;
  if (!values.every((value) => typeof value === "number" && Number.isFinite(value))) return null;
  return values.map((value) => Math.min(Math.max(value / FULL_SCALE, 0), 1));
}
