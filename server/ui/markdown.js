// The little Markdown that answers have, as nodes: code, headings, lists, bold, italics. Everything else is text.

import { make, makeButton } from "./dom.js";
import { hasMarks } from "./grounding.js";
import { readSeconds, TIMESTAMP } from "./timestamps.js";

const FENCE = /^\s*(`{3,}|~{3,})\s*([\w+-]*)/;
const HEADING = /^(#{1,6})\s+(.*)$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
// Bounded, so that no text makes it slow.
const INLINE = new RegExp(
  String.raw`\x60([^\x60\n]{1,1000})\x60|\*\*([^*\n]{1,1000})\*\*|\*(?![\s*])([^*\n]{1,1000})\*|<?(${TIMESTAMP})>?`,
  "g",
);

// Shows a text that grows. Blocks that stay the same keep their nodes, and what is selected in them.
// `jump`: called with the seconds of a time that is pressed; null: times are text.
export class MarkdownView {
  constructor(container, jump) {
    Object.assign(this, { container, jump, sources: [] });
  }

  show(text) {
    const blocks = splitBlocks(text);
    let kept = 0;
    while (kept < blocks.length && blocks[kept].source === this.sources[kept]) kept += 1;
    while (this.container.childNodes.length > kept) this.container.lastChild.remove();
    this.container.append(...blocks.slice(kept).map((block) => this.#render(block)));
    this.sources = blocks.map((block) => block.source);
  }

  #render({ kind, lines, language, level }) {
    if (kind === "code") {
      const code = make("code", { textContent: lines.join("\n") });
      const pre = make("pre", { tabIndex: 0 }, code);
      pre.setAttribute("aria-label", language ? `${language} code` : "code");
      return pre;
    }
    if (kind === "heading") return make(level < 3 ? "h3" : "h4", {}, ...this.#inline(lines[0]));
    if (kind === "list") return this.#list(lines);
    return make("p", {}, ...this.#inline(lines.join("\n")));
  }

  #list(lines) {
    const items = [];
    for (const line of lines) {
      const [, space, mark, text] = ITEM.exec(line) ?? [];
      if (mark) items.push({ depth: Math.min(Math.floor(space.length / 2), 3), mark, text });
      else items.at(-1).text += `\n${line.trim()}`;
    }
    const isOrdered = /\d/.test(items[0].mark);
    const list = make(isOrdered ? "ol" : "ul");
    if (isOrdered) list.start = Number.parseInt(items[0].mark, 10);
    list.append(
      ...items.map(({ depth, text }) => make("li", { className: `depth-${depth}` }, ...this.#inline(text))),
    );
    return list;
  }

  #inline(text) {
    const nodes = [];
    let done = 0;
    for (const match of text.matchAll(INLINE)) {
      nodes.push(text.slice(done, match.index), this.#inlineNode(match));
      done = match.index + match[0].length;
    }
    nodes.push(text.slice(done));
    return nodes.filter((node) => node !== "");
  }

  #inlineNode([whole, code, bold, italic, time]) {
    if (code) return make("code", { textContent: code });
    if (bold) return make("strong", {}, ...this.#inline(bold));
    if (italic) return make("em", {}, ...this.#inline(italic));
    if (!this.jump) return whole;
    const button = makeButton(time, () => this.jump(readSeconds(time)), "time");
    button.setAttribute("aria-label", `Go to ${time} in the clip`);
    return button;
  }
}

function splitBlocks(text) {
  const lines = text.split("\n");
  const blocks = [];
  for (let at = 0; at < lines.length; ) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const block = readBlock(lines, at);
    blocks.push({ ...block, source: `${block.kind}\n${lines.slice(at, block.end).join("\n")}` });
    at = block.end;
  }
  return blocks;
}

function readBlock(lines, start) {
  const fence = FENCE.exec(lines[start]);
  if (fence) return readFence(lines, start, fence);
  const heading = HEADING.exec(lines[start]);
  if (heading) return { kind: "heading", level: heading[1].length, lines: [heading[2]], end: start + 1 };
  const isList = ITEM.test(lines[start]);
  let end = start + 1;
  while (end < lines.length && lines[end].trim() && !startsOther(lines[end], isList)) end += 1;
  const found = lines.slice(start, end);
  const isJson = /^\s*[[{]/.test(found[0]) && hasMarks(found.join("\n"));
  return { kind: isJson ? "code" : isList ? "list" : "paragraph", lines: found, end };
}

function readFence(lines, start, [, mark, language]) {
  let end = start + 1;
  while (end < lines.length && !lines[end].trim().startsWith(mark)) end += 1;
  return { kind: "code", language, lines: lines.slice(start + 1, end), end: end + 1 };
}

function startsOther(line, isList) {
  return FENCE.test(line) || HEADING.test(line) || (!isList && ITEM.test(line));
}
