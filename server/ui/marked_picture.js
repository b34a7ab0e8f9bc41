// A picture with boxes and points over it.

import { make, makeButton } from "./dom.js";

const NUM_COLORS = 6; // `mark-0` to `mark-5` of the style sheet

// `pictures`: attachments. The marks do not say which of several they are of: the reader chooses, the first one to begin with.
export function showMarks(container, pictures, marks) {
  const colors = colorLabels(marks);
  const image = make("img", { alt: describe(marks) });
  const canvas = make("div", { className: "canvas" }, image, ...marks.map((mark) => draw(mark, colors)));
  const choose = (index) => {
    image.src = pictures[index].url;
    choices.forEach((button, at) => button.setAttribute("aria-pressed", String(at === index)));
  };
  const choices = pictures.map((picture, index) =>
    makeButton(`Picture ${index + 1}`, () => choose(index), "choice"),
  );
  choose(0);
  container.replaceChildren(canvas);
  if (pictures.length > 1) container.append(make("div", { className: "choices" }, ...choices));
  container.hidden = false;
}

function draw(mark, colors) {
  const node = make("div", { className: `mark mark-${colors.get(mark.label)}` });
  node.classList.add(mark.isPoint ? "point" : "box");
  if (mark.left > 0.6) node.classList.add("label-left");
  if (mark.top < 0.1) node.classList.add("label-inside");
  for (const side of ["left", "top", "width", "height"]) {
    if (!mark.isPoint || side === "left" || side === "top") node.style[side] = `${mark[side] * 100}%`;
  }
  if (mark.label) node.append(make("span", { className: "label", textContent: mark.label }));
  return node;
}

function colorLabels(marks) {
  const labels = [...new Set(marks.map((mark) => mark.label))];
  return new Map(labels.map((label, index) => [label, index % NUM_COLORS]));
}

function describe(marks) {
  const named = marks.map((mark) => mark.label || (mark.isPoint ? "a point" : "a box"));
  return `The picture with ${named.slice(0, 20).join(", ")} marked`;
}
