// Pictures and clips as they are picked: kept in memory, shown by `blob:` URLs.

import { clone, find, make, makeButton } from "./dom.js";

// For files of which the browser does not know the type.
const TYPES = {
  avif: "image/avif",
  bmp: "image/bmp",
  gif: "image/gif",
  jpeg: "image/jpeg",
  jpg: "image/jpeg",
  mkv: "video/x-matroska",
  mov: "video/quicktime",
  mp4: "video/mp4",
  png: "image/png",
  tif: "image/tiff",
  tiff: "image/tiff",
  webm: "video/webm",
  webp: "image/webp",
};

// null if the file is neither a picture nor a clip.
export function makeAttachment(file) {
  const extension = file.name.split(".").pop().toLowerCase();
  const type = file.type || TYPES[extension] || "";
  const kind = /^(image|video)\/[\w.+-]+$/.exec(type)?.[1];
  if (!kind) return null;
  const name = file.name || `pasted.${type.split("/")[1]}`;
  return { file, kind, type, name, url: URL.createObjectURL(file), dataUrl: null };
}

export async function readDataUrl(attachment) {
  attachment.dataUrl ??= await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.replace(/^data:[^,]*,/, ""));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(attachment.file);
  });
  return `data:${attachment.type};base64,${attachment.dataUrl}`;
}

export function makePreview(attachment, isPlayer) {
  const isVideo = attachment.kind === "video";
  const preview = isVideo
    ? make("video", { src: attachment.url, muted: !isPlayer, playsInline: true, preload: "auto", controls: isPlayer })
    : make("img", { src: attachment.url, alt: attachment.name });
  if (isVideo) preview.setAttribute("aria-label", attachment.name);
  preview.addEventListener("error", () => {
    const text = isPlayer ? `${attachment.name} (this browser cannot show it)` : attachment.kind;
    preview.replaceWith(make("span", { className: "unseen", textContent: text }));
  });
  return preview;
}

export function makeTrayItem(attachment, onRemove) {
  const item = clone("attached-template");
  find(".preview", item).append(makePreview(attachment, false));
  find(".name", item).textContent = attachment.name;
  const button = makeButton("×", onRemove, "remove");
  button.setAttribute("aria-label", `Remove ${attachment.name}`);
  find(".remove", item).replaceWith(button);
  return item;
}

export function release(attachment) {
  URL.revokeObjectURL(attachment.url);
}
