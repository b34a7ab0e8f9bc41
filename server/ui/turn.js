// One question with its answer, as data and as what is seen of it.

import { makePreview } from "./attachments.js";
import { toCurl, toPython } from "./code_samples.js";
import { clone, find, make } from "./dom.js";
import { describeFailure } from "./failure.js";
import { formatMs, listFigures, Stopwatch, summarise } from "./figures.js";
import { findMarks } from "./grounding.js";
import { MarkdownView } from "./markdown.js";
import { showMarks } from "./marked_picture.js";

export class Turn {
  // `seen`: pictures and clips that boxes and times in the answer are about, this turn's or those of earlier ones.
  // `seekVideo`: jumps in the last clip; null without one.
  constructor(question, media, seenPictures, seekVideo) {
    Object.assign(this, { question, media, seenPictures, seekVideo });
    this.node = clone("turn-template");
    this.players = media.map((attachment) => makePreview(attachment, true));
    find(".media", this.node).append(...this.players);
    find(".media", this.node).hidden = !media.length;
    find(".question .text", this.node).textContent = question;
    this.blank = find(".answer", this.node).cloneNode(true);
    this.begin();
  }

  // Back to the moment when it is asked.
  begin() {
    const fresh = this.blank.cloneNode(true);
    find(".answer", this.node).replaceWith(fresh);
    Object.assign(this, { thoughts: "", answer: "", usage: null, numMarks: 0, finishReason: null });
    this.watch = new Stopwatch();
    this.view = new MarkdownView(find(".content", fresh), this.seekVideo);
    find(".answer", this.node).setAttribute("aria-busy", "true");
    for (const button of this.node.querySelectorAll(".copy")) this.#armCopy(button);
    const summary = find(".thinking summary", fresh);
    // Whoever opens or folds it by hand has the last word.
    summary.addEventListener("click", () => (this.isFoldedByHand = true));
    this.isFoldedByHand = false;
  }

  // Returns what began with this chunk: "thinking", "answer", or null.
  take(chunk) {
    if (chunk.usage) this.usage = chunk.usage;
    const choice = chunk.choices?.[0];
    this.finishReason = choice?.finish_reason ?? this.finishReason;
    const thought = choice?.delta?.reasoning_content ?? "";
    const text = choice?.delta?.content ?? "";
    if (thought || text) this.watch.tick();
    const begun = thought && !this.thoughts ? "thinking" : text && !this.answer ? "answer" : null;
    this.thoughts += thought;
    this.answer += text;
    if (begun) this.#beginPart(begun);
    return begun;
  }

  // Called as often as there is time to draw.
  draw() {
    find(".thoughts", this.node).textContent = this.thoughts;
    this.view.show(this.answer);
    const marks = findMarks(this.answer);
    if (this.seenPictures.length && marks.length > this.numMarks) {
      showMarks(find(".grounding", this.node), this.seenPictures, marks);
      this.numMarks = marks.length;
    }
  }

  // `ending`: in words, if it is not the model's own.
  finish(ending, body, hasKey) {
    this.draw();
    find(".waiting", this.node).hidden = true;
    if (this.thoughts && !this.thoughtMs) this.#endThinking();
    find(".answer", this.node).removeAttribute("aria-busy");
    const text = ending ?? (this.finishReason === "length" ? "Cut at the number of tokens allowed." : "");
    find(".ending", this.node).textContent = text;
    find(".ending", this.node).hidden = !text;
    this.#showPanel(body, hasKey);
  }

  fail(error, actions) {
    this.draw();
    find(".waiting", this.node).hidden = true;
    find(".answer", this.node).removeAttribute("aria-busy");
    find(".failure", this.node).replaceChildren(describeFailure(error, actions));
  }

  #beginPart(part) {
    find(".waiting", this.node).hidden = true;
    const thinking = find(".thinking", this.node);
    if (part === "thinking") {
      find("summary", thinking).textContent = "Thinking…";
      Object.assign(thinking, { hidden: false, open: true });
    } else if (this.thoughts) {
      this.#endThinking();
    }
  }

  #endThinking() {
    const thinking = find(".thinking", this.node);
    this.thoughtMs = this.watch.elapsedMs;
    find("summary", thinking).textContent = `Thought for ${formatMs(this.thoughtMs)}`;
    if (!this.isFoldedByHand) thinking.open = false;
  }

  #showPanel(body, hasKey) {
    const panel = find(".panel", this.node);
    panel.hidden = false;
    panel.addEventListener("toggle", () => panel.open && panel.scrollIntoView({ block: "nearest" }));
    find("summary", panel).textContent = summarise(this.watch, this.usage);
    find(".figures", panel).replaceChildren(
      ...listFigures(this.watch, this.usage).map(([name, value]) =>
        make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: String(value) })),
      ),
    );
    find(".python", panel).textContent = toPython(body, location.href, hasKey);
    find(".curl", panel).textContent = toCurl(body, location.href, hasKey);
  }

  #armCopy(button) {
    button.hidden = !navigator.clipboard; // only over https, and on this machine
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(find("code", button.parentElement).textContent);
      button.textContent = "Copied";
    });
  }
}
