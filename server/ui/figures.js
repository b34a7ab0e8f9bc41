// What an answer cost, and what was spared, from the server's `usage` and the clock of this page.

export class Stopwatch {
  #startedMs = performance.now();
  #firstMs = null;
  #lastMs = null;

  // At every piece of thinking or answer.
  tick() {
    this.#lastMs = performance.now();
    this.#firstMs ??= this.#lastMs;
  }

  get ttftMs() {
    return this.#firstMs === null ? null : this.#firstMs - this.#startedMs;
  }

  get elapsedMs() {
    return performance.now() - this.#startedMs;
  }

  // After the first token; null where there is nothing to measure.
  tokensPerSecond(numTokens) {
    const seconds = (this.#lastMs - this.#firstMs) / 1000;
    return numTokens > 1 && seconds > 0 ? (numTokens - 1) / seconds : null;
  }
}

const WORDS = {
  prefix: "KV cache",
  device: "device",
  host: "shared memory",
  disk: "disk",
  encoded: "encoded",
};

// Pairs of names and values; `usage` is null of an answer that was stopped.
export function listFigures(watch, usage) {
  const figures = [["Time to first token", formatMs(watch.ttftMs)]];
  if (!usage) return figures;
  const prompt = usage.prompt_tokens_details ?? {};
  const speed = watch.tokensPerSecond(usage.completion_tokens);
  return [
    ...figures,
    ["Tokens per second", speed === null ? "–" : speed.toFixed(1)],
    ["Prompt tokens", usage.prompt_tokens],
    ["Image tokens", prompt.image_tokens ?? 0],
    ["Video tokens", prompt.video_tokens ?? 0],
    ["Prompt tokens from the KV cache", prompt.cached_tokens ?? 0],
    ["Answer tokens", usage.completion_tokens],
    ["Thinking tokens", usage.completion_tokens_details?.reasoning_tokens ?? 0],
    ["Images and frames from caches", describeHits(prompt.item_sources ?? [])],
  ];
}

export function summarise(watch, usage) {
  const parts = [`TTFT ${formatMs(watch.ttftMs)}`];
  if (usage) {
    const speed = watch.tokensPerSecond(usage.completion_tokens);
    if (speed !== null) parts.push(`${speed.toFixed(1)} tokens/s`);
    parts.push(`${usage.total_tokens} tokens`);
    const sources = usage.prompt_tokens_details?.item_sources ?? [];
    if (sources.length) parts.push(`cache ${countHits(sources)}/${sources.length}`);
  }
  return parts.join(" · ");
}

function describeHits(sources) {
  if (!sources.length) return "–";
  const counts = new Map();
  for (const source of sources) counts.set(source, (counts.get(source) ?? 0) + 1);
  const named = [...counts].map(([source, count]) => `${WORDS[source] ?? source} ${count}`);
  return `${countHits(sources)} of ${sources.length} (${named.join(", ")})`;
}

function countHits(sources) {
  return sources.filter((source) => source !== "encoded").length;
}

export function formatMs(ms) {
  if (ms === null) return "–";
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}
