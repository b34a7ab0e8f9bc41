// What is asked of the server: the list of models, and streamed answers.

export class ServerError extends Error {
  // status 0: nothing came back. retryAfter: seconds, or null.
  constructor(status, message, code = null, retryAfter = null) {
    super(message);
    Object.assign(this, { status, code, retryAfter });
  }
}

export async function listModels(key) {
  const response = await request("v1/models", { headers: makeHeaders(key) });
  return (await response.json()).data;
}

// The chunks of an answer, as the server sends them. Throws ServerError, and AbortError when `signal` says so.
export async function* streamChat(body, key, signal) {
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: {
      ...makeHeaders(key),
      "content-type": "application/json",
      "x-include-item-sources": "1",
    },
    body: JSON.stringify({ ...body, stream_options: { include_usage: true } }),
    signal,
  });
  let isComplete = false;
  for await (const data of readEvents(response.body)) {
    if (data === "[DONE]") {
      isComplete = true;
      continue;
    }
    const chunk = JSON.parse(data);
    if (chunk.error) throw describeError(response.status, chunk.error, null);
    yield chunk;
  }
  if (!isComplete) throw new ServerError(0, "The answer broke off before its end.");
}

function makeHeaders(key) {
  return key ? { authorization: `Bearer ${key}` } : {};
}

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, { ...options, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (error instanceof TypeError && /header|ByteString|ISO-8859-1/i.test(error.message)) {
      throw new ServerError(0, "The API key has characters that no key has.");
    }
    throw new ServerError(0, "The server cannot be reached.");
  }
  if (response.ok) return response;
  const retryAfter = Number.parseInt(response.headers.get("retry-after"), 10);
  const answer = await response.json().catch(() => ({}));
  throw describeError(response.status, answer.error, Number.isNaN(retryAfter) ? null : retryAfter);
}

function describeError(status, error, retryAfter) {
  const message = error?.message ?? "The server gives no reason.";
  return new ServerError(status, String(message), error?.code ?? null, retryAfter);
}

async function* readEvents(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) yield line.slice("data:".length).trim();
      }
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw error instanceof ServerError
      ? error
      : new ServerError(0, "The connection to the server broke.");
  } finally {
    reader.cancel().catch(() => {});
  }
}
