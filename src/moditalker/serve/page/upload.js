// A file that is dropped or chosen: it is sent at once, and what was found in it is kept.

import { Problem, send, showProblem } from "./api.js";
import { number, say } from "./words.js";

export class Upload {
  /** path: where it is sent; parts: elements drop, input, note and problem; looking: key of the words meanwhile. */
  constructor(path, parts, looking) {
    Object.assign(this, { path, ...parts, looking });
    this.pending = null; // a promise of what was found
    this.found = null;
    this.most = Infinity; // MB
    this.input.addEventListener("change", () => this.input.files.length && this.give(this.input.files[0]));
    for (const name of ["dragenter", "dragover"]) {
      this.drop.addEventListener(name, (event) => { event.preventDefault(); this.drop.classList.add("over"); });
    }
    for (const name of ["dragleave", "drop"]) {
      this.drop.addEventListener(name, () => this.drop.classList.remove("over"));
    }
    this.drop.addEventListener("drop", (event) => {
      event.preventDefault();
      if (event.dataTransfer.files.length) this.give(event.dataTransfer.files[0]);
    });
  }

  give(file) {
    this.controller?.abort();
    this.controller = new AbortController();
    const { signal } = this.controller;
    this.found = this.pending = null;
    this.file = file;
    showProblem(this.problem, "");
    this.label = file.name;
    this.preview?.(file);
    const megabytes = file.size / 1e6;
    if (megabytes > this.most) {
      this.render();
      showProblem(this.problem, say("too_large", { name: file.name, megabytes: number(megabytes), most: this.most }));
      return;
    }
    this.share = 0;
    this.drop.classList.add("busy");
    const sending = send(this.path, { file }, (share) => { this.share = share; this.render(); }, signal);
    this.pending = sending.then((found) => {
      this.found = found;
      return found;
    });
    this.pending.catch((error) => {
      if (signal.aborted) return;
      this.pending = null;
      showProblem(this.problem, error.message);
    }).finally(() => {
      if (signal.aborted) return;
      this.drop.classList.remove("busy");
      this.render();
    });
    this.render();
  }

  forget() {
    this.controller?.abort();
    this.found = this.pending = this.file = null;
    this.input.value = "";
    this.label = "";
    showProblem(this.problem, "");
    this.render();
  }

  /** What is known, in the visitor's language. */
  render() {
    const label = this.drop.querySelector("label");
    label.textContent = this.label || say(label.dataset.say);
    this.drop.classList.toggle("full", Boolean(this.label));
    if (this.found) this.note.textContent = this.describe(this.found);
    else if (!this.pending) this.note.textContent = "";
    else if (this.share < 1) this.note.textContent = say("sending", { percent: Math.round(100 * this.share) });
    else this.note.textContent = say(this.looking);
    this.show?.(this.found);
  }

  /** The file that was found to be usable. Throws a Problem with the words of `missing` where there is none. */
  async ready(missing) {
    if (!this.pending) throw new Problem(say(missing));
    return this.pending;
  }
}
