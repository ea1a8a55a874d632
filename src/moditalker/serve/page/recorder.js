// A button that records with the camera or the microphone, and gives a file.

import { say } from "./words.js";

const TYPES = { video: ["video/webm;codecs=vp8", "video/webm", "video/mp4"], audio: ["audio/webm", "audio/mp4", "audio/ogg"] };

/** kind: "video" or "audio"; done(file) and failed(sentence) are called; label: key of the button's words. */
export function recording(button, kind, label, viewfinder, done, failed) {
  let recorder = null;
  const shown = (key) => {
    button.dataset.say = key;
    button.textContent = say(key);
    button.classList.toggle("on", key === "camera_stop");
  };
  const start = async () => {
    button.disabled = true;
    const constraints = kind === "video" ? { video: { width: { ideal: 1280 } }, audio: false } : { audio: true };
    try {
      const stream = await navigator.mediaDevices.getUserMedia(constraints);
      const type = TYPES[kind].find((name) => MediaRecorder.isTypeSupported(name));
      const parts = [];
      recorder = new MediaRecorder(stream, type ? { mimeType: type } : {});
      recorder.ondataavailable = (event) => parts.push(event.data);
      recorder.onstop = () => {
        for (const track of stream.getTracks()) track.stop();
        if (viewfinder) viewfinder.hidden = true;
        const short = recorder.mimeType.split(";")[0];
        recorder = null;
        shown(label);
        done(new File(parts, `${kind === "video" ? "camera" : "microphone"}.${short.split("/")[1]}`, { type: short }));
      };
      if (viewfinder) {
        viewfinder.srcObject = stream;
        viewfinder.hidden = false;
        viewfinder.play();
      }
      recorder.start();
      shown("camera_stop");
    } catch {
      recorder = null;
      failed(say("no_device"));
    } finally {
      button.disabled = false;
    }
  };
  button.addEventListener("click", () => (recorder ? recorder.stop() : start()));
}
