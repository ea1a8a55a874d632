// Live: the microphone goes to the service, and frames come back.

import { showProblem } from "./api.js";
import { face } from "./face.js";
import { number, say } from "./words.js";

const $ = (id) => document.getElementById(id);
const canvas = $("live-picture");
const DEADLINE = 1.5; // s after its sound by which a frame is shown, or left out

let session = null;

function ended(text) {
  session?.stream?.getTracks().forEach((track) => track.stop());
  session?.context?.close();
  session?.socket?.close();
  session = null;
  $("live-start").hidden = false;
  $("live-start").disabled = false;
  $("live-stop").hidden = true;
  if (text !== undefined) $("live-status").textContent = text;
}

function failed(text) {
  showProblem($("live-problem"), text);
  ended("");
}

async function start(options) {
  const mine = session = {};
  showProblem($("live-problem"), "");
  $("live-start").hidden = true;
  $("live-stop").hidden = false;
  $("live-status").textContent = say("live_loading");
  try {
    const found = await face.ready("no_face");
    mine.stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } })
      .catch(() => { throw new Error(say("no_device")); });
    mine.context = new AudioContext();
    await mine.context.audioWorklet.addModule(new URL("microphone.js", import.meta.url));
    if (session !== mine) return mine.stream.getTracks().forEach((track) => track.stop());
    const address = new URL("live", location.href.replace(/^http/, "ws"));
    const asked = { face: found.id, rate: mine.context.sampleRate, deadline: DEADLINE, ...options() };
    for (const [name, value] of Object.entries(asked)) address.searchParams.set(name, value);
    mine.socket = new WebSocket(address);
    mine.socket.binaryType = "arraybuffer";
    mine.socket.onmessage = (event) => (typeof event.data === "string" ? told(mine, JSON.parse(event.data)) : draw(mine, event.data));
    mine.socket.onclose = () => session === mine && failed(say("lost"));
  } catch (error) {
    if (session === mine) failed(error.message);
  }
}

function told(mine, words) {
  if (session !== mine) return;
  if (words.type === "error") return failed(words.error);
  if (words.type === "end") return ended(say("live_end", words));
  const source = mine.context.createMediaStreamSource(mine.stream);
  const microphone = new AudioWorkletNode(mine.context, "microphone", { numberOfOutputs: 0 });
  microphone.port.onmessage = ({ data }) => {
    if (mine.socket.readyState !== WebSocket.OPEN || mine.stopped) return;
    mine.begun ??= performance.now() - (1000 * data.byteLength) / 2 / mine.context.sampleRate;
    mine.socket.send(data);
  };
  source.connect(microphone);
  mine.node = microphone;
  mine.context.resume();
  canvas.width = words.width;
  canvas.height = words.height;
  canvas.setAttribute("aria-label", say("live_alt"));
  $("live-status").textContent = say("live_on", { seconds: number(words.ahead) });
}

async function draw(mine, data) {
  const second = new DataView(data).getFloat64(0, true);
  const picture = await createImageBitmap(new Blob([data.slice(8)], { type: "image/jpeg" }));
  if (session !== mine || second < (mine.shown ?? 0)) return;
  mine.shown = second;
  canvas.hidden = false;
  canvas.width = picture.width;
  canvas.height = picture.height;
  canvas.getContext("2d").drawImage(picture, 0, 0);
  const late = (performance.now() - mine.begun) / 1000 - second;
  if (Math.floor(second) !== mine.said) {
    mine.said = Math.floor(second);
    $("live-status").textContent = say("live_on", { seconds: number(late) });
  }
}

function stop() {
  $("live-stop").hidden = true;
  $("live-start").hidden = false;
  $("live-start").disabled = true; // until the last frames have come
  if (session?.socket?.readyState === WebSocket.OPEN && session.begun) {
    session.stopped = true;
    session.socket.send(JSON.stringify({ type: "end" }));
  } else ended("");
}

/** options(): fields of a live session. */
export function setUp(options) {
  $("live-start").addEventListener("click", () => start(options));
  $("live-stop").addEventListener("click", stop);
}
