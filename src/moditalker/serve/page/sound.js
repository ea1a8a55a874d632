// The speech: a recording, from a file or the microphone.

import { Upload } from "./upload.js";
import { recording } from "./recorder.js";
import { showProblem } from "./api.js";
import { number, say } from "./words.js";

const $ = (id) => document.getElementById(id);

class Sound extends Upload {
  preview(file) {
    URL.revokeObjectURL(this.url);
    this.url = URL.createObjectURL(file);
    $("playback").src = this.url;
  }

  describe({ seconds }) {
    return say("heard", { seconds: number(seconds) });
  }

  show(found) {
    $("playback").hidden = !found;
  }
}

export const sound = new Sound("sounds", {
  drop: $("sound-drop"), input: $("sound"), note: $("heard"), problem: $("sound-problem"),
}, "listening");

recording($("microphone"), "audio", "microphone", null, (file) => sound.give(file), (text) => showProblem($("sound-problem"), text));
