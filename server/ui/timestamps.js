// Times in an answer: "4.5 seconds", "<4.5 seconds>", "00:04", "01:02.50", "1:02:03".

const NUMBER = String.raw`\d{1,6}(?:\.\d{1,3})?`;
const CLOCK = String.raw`(?:\d{1,2}:)?\d{1,3}:[0-5]\d(?:\.\d{1,3})?`;
export const TIMESTAMP = String.raw`(?<![\w.:])(?:${CLOCK}(?![\w:])|${NUMBER} ?(?:seconds?|secs?|s)(?!\w))`;

// Seconds from the start of the clip.
export function readSeconds(text) {
  if (!text.includes(":")) return Number.parseFloat(text);
  return text.split(":").reduce((sum, part) => sum * 60 + Number.parseFloat(part), 0);
}
