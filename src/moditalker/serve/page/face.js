// The face: the frame in which faces were found, and a button around each.

import { Upload } from "./upload.js";
import { recording } from "./recorder.js";
import { showProblem } from "./api.js";
import { number, say } from "./words.js";

const $ = (id) => document.getElementById(id);
const picture = $("picture");
const image = picture.querySelector("img");
const PAD = 0.12; // of a face's size, around it

class Face extends Upload {
  preview(file) {
    this.chosen = null;
    this.shown = null;
    URL.revokeObjectURL(this.url);
    this.url = URL.createObjectURL(file);
    picture.hidden = !file.type.startsWith("image/");
    if (!picture.hidden) image.src = this.url;
    image.onerror = () => { picture.hidden = true; };
  }

  describe({ faces, second }) {
    const late = second ? ` ${say("found_late", { seconds: number(second) })}` : "";
    return (faces.length === 1 ? say("found_one") : say("found_many", { count: faces.length })) + late;
  }

  show(found) {
    if (!found) {
      for (const button of picture.querySelectorAll("button")) button.remove();
      if (!this.file) picture.hidden = true;
      return;
    }
    if (this.shown !== found.id) {
      this.shown = found.id;
      image.src = `faces/${found.id}/picture`;
      picture.hidden = false;
    }
    image.alt = say("face_alt");
    for (const button of picture.querySelectorAll("button")) button.remove();
    found.faces.forEach((box, index) => picture.append(this.button(found, box, index)));
  }

  button(found, [x0, y0, x1, y1], index) {
    const button = document.createElement("button");
    const pad = PAD * Math.max(x1 - x0, y1 - y0);
    const left = Math.max(0, x0 - pad);
    const top = Math.max(0, y0 - pad);
    button.type = "button";
    button.style.left = `${(100 * left) / found.width}%`;
    button.style.top = `${(100 * top) / found.height}%`;
    button.style.width = `${(100 * (Math.min(found.width, x1 + pad) - left)) / found.width}%`;
    button.style.height = `${(100 * (Math.min(found.height, y1 + pad) - top)) / found.height}%`;
    button.setAttribute("aria-label", say("face_number", { number: index + 1 }));
    button.setAttribute("aria-pressed", String(index === (this.chosen ?? found.largest)));
    if (found.faces.length > 1) {
      const label = document.createElement("span");
      label.textContent = index + 1;
      label.setAttribute("aria-hidden", "true");
      button.append(label);
    }
    button.addEventListener("click", () => {
      this.chosen = index;
      picture.querySelectorAll("button").forEach((other, n) => other.setAttribute("aria-pressed", String(n === index)));
    });
    return button;
  }

  /** Which face speaks, as the service takes it. */
  choice() {
    if (this.chosen === null || this.chosen === undefined) return "largest";
    const [x0, y0, x1, y1] = this.found.faces[this.chosen];
    return `${(x0 + x1) / 2},${(y0 + y1) / 2}`;
  }
}

export const face = new Face("faces", {
  drop: $("face-drop"), input: $("face"), note: $("found"), problem: $("face-problem"),
}, "looking");

// A click anywhere in the picture takes the nearest face.
image.addEventListener("click", (event) => {
  if (!face.found) return;
  const area = image.getBoundingClientRect();
  const x = ((event.clientX - area.left) / area.width) * face.found.width;
  const y = ((event.clientY - area.top) / area.height) * face.found.height;
  const away = ([x0, y0, x1, y1]) => Math.hypot(Math.max(x0 - x, 0, x - x1), Math.max(y0 - y, 0, y - y1));
  const nearest = face.found.faces.map(away).reduce((best, far, n, all) => (far < all[best] ? n : best), 0);
  picture.querySelectorAll("button")[nearest].click();
});

recording($("camera"), "video", "camera", $("viewfinder"), (file) => face.give(file), (text) => showProblem($("face-problem"), text));
