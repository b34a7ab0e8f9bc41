// The page: it holds the conversation and the key in memory, and nothing anywhere else.

import { makeAttachment, makeTrayItem, readDataUrl, release } from "./attachments.js";
import { listModels, ServerError, streamChat } from "./chat_stream.js";
import { buildBody, nameFiles } from "./conversation.js";
import { find, make } from "./dom.js";
import { describeFailure } from "./failure.js";
import { Turn } from "./turn.js";

const NEAR_END_PX = 120;
const DEFAULT_RETRY_S = 3;

const page = Object.fromEntries([...document.querySelectorAll("[id]")].map((node) => [node.id, node]));
let turns = [];
let attached = [];
let held = []; // every attachment of this chat, also of questions that failed
let models = [];
let running = null; // the AbortController of the answer under way
let waiting = null; // the timer that asks for the models again

// --- the models ---

async function loadModels() {
  clearTimeout(waiting);
  try {
    models = await listModels(page.key.value.trim());
  } catch (error) {
    models = [];
    const actions = error.status === 401 ? { "Enter a key": openKey } : { "Try again": loadModels };
    page.notice.replaceChildren(describeFailure(error, actions));
    if (error.status === 503 || error.status === 0) {
      waiting = setTimeout(loadModels, (error.retryAfter ?? DEFAULT_RETRY_S) * 1000);
    }
  }
  if (models.length) page.notice.replaceChildren();
  const chosen = page.model.value;
  page.model.replaceChildren(...models.map(({ id }) => make("option", { value: id, textContent: id })));
  if (models.some(({ id }) => id === chosen)) page.model.value = chosen;
  showModel();
}

function showModel() {
  const model = models.find(({ id }) => id === page.model.value);
  page.served.textContent = model?.id ?? "";
  const canThink = model?.kind !== "instruct";
  page.thinking.disabled = !canThink;
  if (!canThink) page.thinking.checked = false;
  else if (page.thinking.dataset.kind === "instruct") page.thinking.checked = true;
  page.thinking.dataset.kind = model?.kind ?? "";
  if (model) find('[name="max_completion_tokens"]').max = model.max_model_len;
}

function openKey() {
  page.settings.showPopover();
  page.key.focus();
}

// --- asking ---

function readOptions() {
  const options = { model: page.model.value };
  for (const input of page.settings.querySelectorAll("input[type=number]")) {
    if (!input.validity.valid) {
      page.settings.showPopover();
      input.reportValidity();
      return null;
    }
    if (input.value !== "") options[input.name] = input.valueAsNumber;
  }
  if (!page.thinking.disabled) options.enable_thinking = page.thinking.checked;
  return options;
}

function ask() {
  const question = page.question.value.trim();
  if (running || !(question || attached.length)) return page.question.focus();
  const options = readOptions();
  if (!options) return;
  turns = turns.filter((turn) => turn.answer); // one that failed is not part of what follows
  const isPicture = ({ kind }) => kind === "image";
  const earlier = turns.findLast((turn) => turn.media.some(isPicture));
  const pictures = (attached.some(isPicture) ? attached : (earlier?.media ?? [])).filter(isPicture);
  const hasVideo = [...turns.flatMap((turn) => turn.media), ...attached].some(({ kind }) => kind === "video");
  const turn = new Turn(question, attached, pictures, hasVideo ? (seconds) => seek(turn, seconds) : null);
  turns.push(turn);
  page.conversation.append(turn.node);
  page.welcome.hidden = true;
  page.question.value = "";
  attached = [];
  showTray();
  turn.node.scrollIntoView({ block: "start" });
  void answer(turn, options);
}

async function answer(turn, options) {
  const history = turns.slice(0, turns.indexOf(turn) + 1);
  const hasKey = page.key.value.trim() !== "";
  const body = buildBody(history, options, nameFiles(history));
  const controller = new AbortController();
  setRunning(controller);
  turn.begin();
  say("Asked");
  try {
    await stream(turn, await fillIn(history, options), controller);
    keepAtEnd(() => turn.finish(null, body, hasKey));
    say(`Answer: ${turn.answer}`);
  } catch (error) {
    if (running !== controller) return; // a new chat has begun
    if (error.name === "AbortError") {
      keepAtEnd(() => turn.finish("Stopped.", body, hasKey));
      say("Stopped");
    } else {
      const shown = error instanceof ServerError ? error : new ServerError(0, `This page failed: ${error.message}`);
      const again = () => !running && askAgain(turn, options);
      const actions = { ...(shown.status === 401 && { "Enter a key": openKey }), "Try again": again };
      keepAtEnd(() => turn.fail(shown, actions));
    }
  } finally {
    if (running === controller) setRunning(null);
  }
}

function askAgain(turn, options) {
  if (!turns.includes(turn)) {
    turns.push(turn);
    page.conversation.append(turn.node);
  }
  void answer(turn, options);
}

async function fillIn(history, options) {
  const urls = new Map();
  for (const attachment of history.flatMap((turn) => turn.media)) {
    urls.set(attachment, await readDataUrl(attachment));
  }
  return buildBody(history, options, urls);
}

async function stream(turn, body, controller) {
  let isDrawing = false;
  controller.signal.throwIfAborted();
  for await (const chunk of streamChat(body, page.key.value.trim(), controller.signal)) {
    const begun = turn.take(chunk);
    if (begun) say(begun === "thinking" ? "Thinking" : "Answering");
    if (isDrawing) continue;
    isDrawing = true;
    requestAnimationFrame(() => {
      isDrawing = false;
      keepAtEnd(() => turn.draw());
    });
  }
}

function setRunning(controller) {
  const hadFocus = [page.send, page.stop].includes(document.activeElement);
  running = controller;
  page.stop.hidden = !running;
  page.send.hidden = Boolean(running);
  if (hadFocus) (running ? page.stop : page.question).focus();
}

function say(text) {
  page.status.textContent = text;
}

function keepAtEnd(change) {
  const root = document.scrollingElement;
  const wasAtEnd = root.scrollHeight - root.scrollTop - root.clientHeight < NEAR_END_PX;
  change();
  if (wasAtEnd) root.scrollTo({ top: root.scrollHeight, behavior: "instant" });
}

// In the last clip that was given by then.
function seek(turn, seconds) {
  const players = turns.slice(0, turns.indexOf(turn) + 1).flatMap(({ node }) => [...node.querySelectorAll(".media video")]);
  const player = players.at(-1);
  if (!player) return;
  player.pause();
  player.currentTime = Number.isFinite(player.duration) ? Math.min(seconds, player.duration) : seconds;
  player.scrollIntoView({ block: "nearest" });
}

function startAnew() {
  running?.abort();
  setRunning(null);
  held.forEach(release);
  turns = [];
  attached = [];
  held = [];
  page.conversation.replaceChildren();
  page.welcome.hidden = false;
  showTray();
  say("New chat");
  page.question.focus();
}

// --- files ---

function addFiles(files) {
  const refused = [];
  for (const file of files) {
    const attachment = makeAttachment(file);
    if (attachment) {
      attached.push(attachment);
      held.push(attachment);
    } else refused.push(file.name);
  }
  showTray(refused);
  page.question.focus();
}

function showTray(refused = []) {
  page.tray.replaceChildren(...attached.map((attachment) => makeTrayItem(attachment, () => remove(attachment))));
  page.refused.textContent = refused.length ? `Neither picture nor clip: ${refused.join(", ")}` : "";
}

function remove(attachment) {
  attached = attached.filter((other) => other !== attachment);
  release(attachment);
  showTray();
  page.question.focus();
}

function holdsFiles(event) {
  return event.dataTransfer?.types.includes("Files") ?? false;
}

function listenForDrops() {
  const hint = page["drop-hint"];
  document.addEventListener("dragover", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    hint.hidden = false;
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) hint.hidden = true;
  });
  document.addEventListener("drop", (event) => {
    hint.hidden = true;
    if (!holdsFiles(event)) return;
    event.preventDefault();
    addFiles(event.dataTransfer.files);
  });
}

// --- start ---

page.send.addEventListener("click", ask);
page.stop.addEventListener("click", () => running?.abort());
page.model.addEventListener("change", showModel);
page.key.addEventListener("change", loadModels);
page.attach.addEventListener("click", () => page.files.click());
page.files.addEventListener("change", () => {
  addFiles(page.files.files);
  page.files.value = "";
});
page["new-chat"].addEventListener("click", startAnew);
page.question.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  ask();
});
document.addEventListener("paste", (event) => {
  if (!event.clipboardData?.files.length) return;
  event.preventDefault();
  addFiles(event.clipboardData.files);
});
listenForDrops();
void loadModels();
page.question.focus();
