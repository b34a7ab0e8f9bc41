// The request that was just made, as code that runs. Keys stay in the environment.

import { FileUrl } from "./conversation.js";

const INDENT = "    ";
// The fields that OpenAI's client knows by name; the others go into `extra_body`.
const KNOWN = ["model", "messages", "temperature", "top_p", "presence_penalty", "seed", "max_completion_tokens", "stream"];

export function toPython(body, baseUrl, hasKey) {
  const extra = Object.fromEntries(Object.entries(body).filter(([name]) => !KNOWN.includes(name)));
  const fields = KNOWN.filter((name) => name in body).map((name) => [name, body[name]]);
  if (Object.keys(extra).length) fields.push(["extra_body", extra]);
  const hasFiles = body.messages.some((message) => typeof message.content !== "string");
  const lines = [
    ...(hasFiles ? ["import base64"] : []),
    ...(hasKey ? ["import os"] : []),
    ...(hasFiles || hasKey ? [""] : []),
    "from openai import OpenAI",
    "",
    ...(hasFiles ? [PYTHON_DATA_URL] : []),
    "client = OpenAI(",
    `${INDENT}base_url=${JSON.stringify(new URL("v1", baseUrl).href)},`,
    `${INDENT}api_key=${hasKey ? 'os.environ["API_KEY"]' : '"unused"'},`,
    ")",
    "stream = client.chat.completions.create(",
    ...fields.map(([name, value]) => `${INDENT}${name}=${writePython(value, INDENT)},`),
    ")",
    "for chunk in stream:",
    `${INDENT}for choice in chunk.choices:`,
    `${INDENT}${INDENT}print(choice.delta.content or "", end="", flush=True)`,
    "print()",
  ];
  return `${lines.join("\n")}\n`;
}

const PYTHON_DATA_URL = `
def data_url(media_type, path):
    with open(path, "rb") as file:
        return f"data:{media_type};base64,{base64.b64encode(file.read()).decode()}"

`;

// The body stands in a here-document: the shell puts the files in, so none is too large for a command line.
export function toCurl(body, baseUrl, hasKey) {
  const files = [];
  let mark = "FILE";
  while (JSON.stringify(body).includes(mark)) mark += "_";
  const json = JSON.stringify(body, (_, value) => {
    if (!(value instanceof FileUrl)) return value;
    files.push(value);
    return `${mark}${files.length}.`;
  }, 2);
  const escaped = json.replace(/[\\$`]/g, "\\$&");
  const filled = escaped.replace(new RegExp(`${mark}(\\d+)\\.`, "g"), (_, count) => insertFile(files[count - 1]));
  return [
    `curl --no-buffer --silent --show-error ${quoteShell(new URL("v1/chat/completions", baseUrl).href)} \\`,
    ...(hasKey ? ['  --header "Authorization: Bearer $API_KEY" \\'] : []),
    "  --header 'Content-Type: application/json' \\",
    "  --data-binary @- <<END",
    filled,
    "END\n",
  ].join("\n");
}

const insertFile = ({ type, path }) => `data:${type};base64,$(base64 < '${path}' | tr -d '\\n')`;
const quoteShell = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function writePython(value, indent) {
  if (value instanceof FileUrl) {
    return `data_url(${JSON.stringify(value.type)}, ${JSON.stringify(value.path)})`;
  }
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const isList = Array.isArray(value);
  const inner = indent + INDENT;
  const entries = isList
    ? value.map((item) => writePython(item, inner))
    : Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${writePython(item, inner)}`);
  const [open, close] = isList ? "[]" : "{}";
  const line = `${open}${entries.join(", ")}${close}`;
  if (line.length + indent.length < 80 && !line.includes("\n")) return line;
  return `${open}\n${entries.map((entry) => `${inner}${entry},\n`).join("")}${indent}${close}`;
}
