// A job in the making: its stages, how long it takes yet, and its newest frame.

import { ask } from "./api.js";
import { clock } from "./takes.js";
import { say } from "./words.js";

const $ = (id) => document.getElementById(id);
const STAGES = ["face", "speech", "video"];

let words = null; // what the status says: a key and its values

export function status(key, values = {}, busy = true) {
  words = key && { key, values };
  $("status").textContent = key ? say(key, values) : "";
  $("status").classList.toggle("busy", Boolean(key) && busy);
}

export const again = () => words && ($("status").textContent = say(words.key, words.values));

function render(job) {
  const now = STAGES.indexOf(job.stage);
  for (const item of $("stages").children) {
    const place = STAGES.indexOf(item.dataset.stage);
    item.className = place < now ? "done" : place === now ? "now" : "";
  }
  if (job.state === "waiting") {
    if (!job.before) status("starting");
    else status(job.before === 1 ? "before_one" : "before_many", { count: job.before });
  } else if (job.stage) status(`stage_${job.stage}`);
  if (job.stage === "video" && job.done) $("progress").value = job.done / job.total;
  else $("progress").removeAttribute("value");
  const left = job.seconds_left === null ? "" : say("left", { time: clock(job.seconds_left) });
  const frame = job.stage === "video" && job.done ? `${say("frame_of", { done: job.done, total: job.total })} ` : "";
  $("left").textContent = frame + left;
}

let loading = false;
function newest(job) {
  if (job.stage !== "video" || loading) return;
  loading = true;
  const next = new Image();
  next.onload = () => {
    $("newest").src = next.src;
    $("newest").alt = say("newest");
    $("newest").hidden = false;
    setTimeout(() => { loading = false; }, 400);
  };
  next.onerror = () => setTimeout(() => { loading = false; }, 400); // there is none yet
  next.src = `jobs/${job.id}/picture?${job.done}`;
}

/** Show a job until it ends; what it was in the end. */
export function follow(job) {
  $("newest").hidden = true;
  $("work").hidden = false;
  render(job);
  return new Promise((done) => {
    const events = new EventSource(`jobs/${job.id}/events`);
    const told = (now) => {
      if (now.state === "waiting" || now.state === "running") {
        render(now);
        newest(now);
        return;
      }
      events.close();
      $("work").hidden = true;
      done(now);
    };
    events.onmessage = (event) => told(JSON.parse(event.data));
    events.onerror = async () => { // the browser tries again by itself, unless it got another answer
      if (events.readyState !== EventSource.CLOSED) return;
      const now = await ask(`jobs/${job.id}`)
        .catch((error) => (error.status === 404 ? { ...job, state: "cancelled" } : job));
      if (now.state === "waiting" || now.state === "running") setTimeout(() => follow(now).then(done), 1000);
      else told(now);
    };
  });
}
