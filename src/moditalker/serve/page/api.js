// Requests to the service. What is wrong comes back as a Problem with one sentence.

import { say } from "./words.js";

export class Problem extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

const problem = (status, text) => {
  try {
    return new Problem(JSON.parse(text).error, status);
  } catch {
    return new Problem(say("lost"), status);
  }
};

export async function ask(path, method = "GET") {
  let answer;
  try {
    answer = await fetch(path, { method });
  } catch {
    throw new Problem(say("lost"));
  }
  const text = await answer.text();
  if (!answer.ok) throw problem(answer.status, text);
  return text ? JSON.parse(text) : null;
}

/** Send a form; progress(share) is called while it goes. signal ends it. */
export function send(path, fields, progress = () => {}, signal = undefined, key = undefined) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    if (value instanceof Blob) form.append(name, value, value.name ?? "recording.webm");
    else form.append(name, value);
  }
  return new Promise((done, fail) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    if (key) request.setRequestHeader("Idempotency-Key", key);
    request.upload.onprogress = (event) => event.lengthComputable && progress(event.loaded / event.total);
    request.onload = () => (request.status < 300 ? done(JSON.parse(request.responseText || "null"))
      : fail(problem(request.status, request.responseText)));
    request.onerror = () => fail(new Problem(say("lost")));
    request.onabort = () => fail(new DOMException("", "AbortError"));
    signal?.addEventListener("abort", () => request.abort());
    if (signal?.aborted) return fail(new DOMException("", "AbortError"));
    request.send(form);
  });
}

/** Show a sentence in an element, or hide it. */
export function showProblem(element, text) {
  element.hidden = !text;
  element.textContent = text ?? "";
}
