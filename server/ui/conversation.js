// A conversation as the body of a request.

// Stands in code for the data URL of a file that the reader puts at `path`.
export class FileUrl {
  constructor(path, type) {
    Object.assign(this, { path, type });
  }
}

// `urls`: a Map from attachments to their URLs. Of a turn without an answer there is only the question.
export function buildBody(turns, options, urls) {
  const messages = turns.flatMap((turn) => {
    const question = { role: "user", content: describeContent(turn, urls) };
    return turn.answer ? [question, { role: "assistant", content: turn.answer }] : [question];
  });
  return { ...options, messages, stream: true };
}

// Names that are safe in any shell and differ from each other.
export function nameFiles(turns) {
  const urls = new Map();
  const taken = new Set();
  for (const attachment of turns.flatMap((turn) => turn.media)) {
    const plain = attachment.name.replace(/[^A-Za-z0-9._-]+/g, "_").replace(/^[.-]+/, "").slice(-80);
    let path = plain || attachment.kind;
    for (let count = 2; taken.has(path); count += 1) path = `${count}-${plain || attachment.kind}`;
    taken.add(path);
    urls.set(attachment, new FileUrl(path, attachment.type));
  }
  return urls;
}

function describeContent(turn, urls) {
  if (!turn.media.length) return turn.question;
  const parts = turn.media.map((attachment) => {
    const field = `${attachment.kind}_url`;
    return { type: field, [field]: { url: urls.get(attachment) } };
  });
  return turn.question ? [...parts, { type: "text", text: turn.question }] : parts;
}
