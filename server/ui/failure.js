// What went wrong, in words.

import { clone, find, makeButton } from "./dom.js";

const WHAT = {
  0: "No answer",
  400: "The server cannot do this",
  401: "The server needs an API key",
  403: "This key may not do this",
  404: "There is no such thing on the server",
  408: "The request took too long to arrive",
  413: "This is too large",
  415: "This kind of file is not supported",
  422: "The file cannot be read",
  429: "Too much for this key, for now",
  500: "The server failed",
  503: "The server is busy or not ready",
  504: "The answer took too long",
};

// `actions`: names of buttons and what they do.
export function describeFailure(error, actions) {
  const node = clone("failure-template");
  const details = [
    error.status >= 400 ? `Status ${error.status}` : "",
    error.code ? `code ${error.code}` : "",
    error.retryAfter === null ? "" : `try again in ${error.retryAfter} ${error.retryAfter === 1 ? "second" : "seconds"}`,
  ];
  find(".what", node).textContent = WHAT[error.status] ?? (error.status < 400 ? "The answer broke off" : "The server refused");
  find(".message", node).textContent = error.message;
  find(".details", node).textContent = details.filter(Boolean).join(", ");
  find(".actions", node).append(
    ...Object.entries(actions).map(([name, action]) => makeButton(name, action)),
  );
  return node;
}
