// Nodes are made by properties and text alone: nothing that the server or a file says becomes markup.

export const find = (selector, within = document) => within.querySelector(selector);

export function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  Object.assign(node, properties);
  node.append(...children);
  return node;
}

export function clone(templateId) {
  return document.getElementById(templateId).content.firstElementChild.cloneNode(true);
}

export function makeButton(text, onClick, className = "") {
  const button = make("button", { type: "button", textContent: text, className });
  button.addEventListener("click", onClick);
  return button;
}
