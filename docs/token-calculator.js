// How many tokens an image or a video takes: the rules of multimodal/plan.py and multimodal/grid.py
// with the numbers of the published checkpoints and the server's default limits.
// tests/unit/test_token_calculator.py compares it with them.
"use strict";

const FACTOR = 32; // patch 16, merged 2 by 2: a token covers 32 x 32 pixels
const TEMPORAL_PATCH = 2; // two frames share their tokens
const IMAGE_MIN_PIXELS = 65536;
const IMAGE_MAX_PIXELS = 16777216;
const VIDEO_MIN_PIXELS = 4096; // frames * height * width
const VIDEO_MAX_PIXELS = 25165824;
const FPS = 2;
const MIN_FRAMES = 4;
const MAX_FRAMES = 768;
const MAX_SOURCE_PIXELS = 64000000;
const MAX_ASPECT_RATIO = 200;
const MAX_DURATION_S = 7200;
const MARKERS = 2; // <|vision_start|>, <|vision_end|>
const TIMESTAMP_EXTRA = 3; // "<", " seconds", ">": each digit and the point are tokens, too

function roundHalfToEven(value) {
  const below = Math.floor(value);
  const rest = value - below;
  if (rest !== 0.5) return rest < 0.5 ? below : below + 1;
  return below % 2 === 0 ? below : below + 1;
}

function toFactor(value, factor) {
  return roundHalfToEven(value / factor) * factor;
}

function checkRatio(width, height) {
  if (Math.max(width, height) / Math.min(width, height) > MAX_ASPECT_RATIO) {
    throw new RangeError(`one side is more than ${MAX_ASPECT_RATIO} times the other`);
  }
}

function checkSource(width, height) {
  if (!(width >= 1 && height >= 1)) throw new RangeError("width and height must be 1 or more");
  if (width * height > MAX_SOURCE_PIXELS) {
    throw new RangeError(`more than ${MAX_SOURCE_PIXELS} pixels (media.max_source_pixels)`);
  }
  checkRatio(width, height);
}

// numFrames scales, countedFrames is compared: 1 and 1 for an image
function intoBounds(width, height, numFrames, countedFrames, minPixels, maxPixels) {
  const resized = { width: toFactor(width, FACTOR), height: toFactor(height, FACTOR) };
  const area = countedFrames * resized.height * resized.width;
  const source = numFrames * height * width;
  if (area > maxPixels) {
    const beta = Math.sqrt(source / maxPixels);
    const side = (length) => Math.max(FACTOR, Math.floor(length / beta / FACTOR) * FACTOR);
    return { width: side(width), height: side(height) };
  }
  if (area < minPixels) {
    const beta = Math.sqrt(minPixels / source);
    const side = (length) => Math.ceil((length * beta) / FACTOR) * FACTOR;
    return { width: side(width), height: side(height) };
  }
  return resized;
}

function withinItemBudget(resize, minPixels) {
  let size = resize(minPixels);
  if (size.width * size.height > IMAGE_MAX_PIXELS) size = resize(1);
  if (size.width * size.height > IMAGE_MAX_PIXELS) {
    throw new RangeError("too many pixels after resizing");
  }
  return size;
}

function countTokens(size) {
  return (size.width * size.height) / (FACTOR * FACTOR);
}

// {width, height, min_pixels?, max_pixels?} -> {width, height, tokens, prompt_tokens}
function imageTokens(image) {
  checkSource(image.width, image.height);
  const maxPixels = Math.min(image.max_pixels || IMAGE_MAX_PIXELS, IMAGE_MAX_PIXELS);
  const minPixels = Math.min(image.min_pixels || IMAGE_MIN_PIXELS, maxPixels);
  const size = withinItemBudget(
    (least) => intoBounds(image.width, image.height, 1, 1, least, maxPixels),
    minPixels,
  );
  const tokens = countTokens(size);
  return { ...size, tokens, prompt_tokens: tokens + MARKERS };
}

function sampledFrames(total, sourceFps, video) {
  let count = video.num_frames;
  if (!count) {
    const most = Math.min(video.max_frames || MAX_FRAMES, MAX_FRAMES);
    count = Math.trunc((total / sourceFps) * (video.fps || FPS));
    count = Math.min(Math.max(count, MIN_FRAMES), most, total);
  }
  const step = count > 1 ? (total - 1) / (count - 1) : 0;
  const indices = Array.from({ length: count }, (_, i) => roundHalfToEven(i * step));
  if (count > 1) indices[count - 1] = total - 1;
  return indices;
}

function timestampTokens(indices, sourceFps) {
  let tokens = 0;
  for (let i = 0; i < indices.length; i += TEMPORAL_PATCH) {
    const last = indices[Math.min(i + TEMPORAL_PATCH - 1, indices.length - 1)];
    const seconds = (indices[i] / sourceFps + last / sourceFps) / 2;
    tokens += seconds.toFixed(1).length + TIMESTAMP_EXTRA;
  }
  return tokens;
}

function frameSize(width, height, numFrames, minPixels, maxPixels) {
  let [w, h] = [width, height];
  if (h < FACTOR || w < FACTOR) {
    const scale = Math.max(FACTOR / h, FACTOR / w);
    [w, h] = [Math.trunc(w * scale), Math.trunc(h * scale)];
  }
  checkRatio(w, h);
  const counted = toFactor(numFrames, TEMPORAL_PATCH);
  return intoBounds(w, h, numFrames, counted, minPixels, maxPixels);
}

// {width, height, source_frames, source_fps, fps?, num_frames?, max_frames?, min_pixels?,
// max_pixels?, total_pixels?} -> {width, height, frames, tokens, prompt_tokens}
function videoTokens(video) {
  checkSource(video.width, video.height);
  if (video.source_frames / video.source_fps > MAX_DURATION_S) {
    throw new RangeError(`longer than ${MAX_DURATION_S} s (media.max_video_duration_s)`);
  }
  const indices = sampledFrames(video.source_frames, video.source_fps, video);
  const numFrames = Math.max(indices.length, TEMPORAL_PATCH);
  let maxPixels = VIDEO_MAX_PIXELS;
  if (video.total_pixels) maxPixels = video.total_pixels * TEMPORAL_PATCH;
  maxPixels = Math.min(maxPixels, (video.max_pixels || IMAGE_MAX_PIXELS) * numFrames);
  const wanted = video.min_pixels ? video.min_pixels * numFrames : VIDEO_MIN_PIXELS;
  const size = withinItemBudget(
    (least) => frameSize(video.width, video.height, numFrames, least, maxPixels),
    Math.min(wanted, maxPixels),
  );
  const numPatches = Math.ceil(indices.length / TEMPORAL_PATCH);
  const tokens = numPatches * countTokens(size);
  const marks = timestampTokens(indices, video.source_fps) + MARKERS * (numPatches + 1);
  return { ...size, frames: numPatches * TEMPORAL_PATCH, tokens, prompt_tokens: tokens + marks };
}

const FIELDS = {
  image: [["width", 1920], ["height", 1080], ["max_pixels", ""], ["min_pixels", ""], ["images", 1]],
  video: [
    ["width", 1280], ["height", 720], ["seconds", 30], ["source fps", 24], ["fps", 2],
    ["max_frames", ""], ["max_pixels", ""], ["total_pixels", ""],
  ],
};

function describeImage(given) {
  const found = imageTokens(given);
  const count = given.images || 1;
  return `${found.width} x ${found.height} after resizing: ${found.tokens} image tokens\n`
    + `${found.prompt_tokens * count} tokens of the prompt for ${count}`;
}

function describeVideo(given) {
  const sourceFps = given["source fps"] || 24;
  const frames = Math.max(1, Math.round(given.seconds * sourceFps));
  const found = videoTokens({ ...given, source_frames: frames, source_fps: sourceFps });
  return `${found.frames} frames of ${found.width} x ${found.height}: ${found.tokens} video tokens\n`
    + `${found.prompt_tokens} tokens of the prompt, timestamps included`;
}

function addForm(place, kind, describe) {
  const form = document.createElement("form");
  const output = document.createElement("output");
  for (const [name, value] of FIELDS[kind]) {
    const label = document.createElement("label");
    const input = document.createElement("input");
    Object.assign(input, { name, value, type: "number", min: 0, step: "any" });
    label.append(name, input);
    form.append(label);
  }
  const show = () => {
    const given = Object.fromEntries([...new FormData(form)].map(([name, text]) => [name, +text]));
    try {
      output.textContent = describe(given);
    } catch (error) {
      output.textContent = `refused: ${error.message}`;
    }
  };
  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.append(output);
  place.replaceChildren(form);
  show();
}

if (typeof module !== "undefined") {
  module.exports = { imageTokens, videoTokens };
} else {
  addForm(document.getElementById("image-calculator"), "image", describeImage);
  addForm(document.getElementById("video-calculator"), "video", describeVideo);
}
