// Results: for each face its source, and the takes that were made of it side by side.

import { ask } from "./api.js";
import { number, say } from "./words.js";

const takes = document.getElementById("takes");
const groups = document.getElementById("groups");

export const clock = (seconds) => {
  const whole = Math.max(0, Math.round(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
};

const make = (name, attributes = {}, ...children) => {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children);
  return element;
};
const said = (name, key, attributes = {}) => make(name, { ...attributes, "data-say": key }, say(key));

function source(job, report) {
  const shown = report.still
    ? make("img", { src: `faces/${job.face}/picture`, alt: say("source"), onerror: () => figure.remove() })
    : make("video", { class: "source", src: `jobs/${job.id}/source`, playsinline: true, preload: "auto", tabindex: "-1" });
  if (!report.still) shown.muted = true;
  const figure = make("figure", {}, shown, said("figcaption", "source", { class: "note" }));
  return figure;
}

function curve(opening) {
  const most = Math.max(0.12, ...opening);
  const step = 1000 / Math.max(1, opening.length - 1);
  const points = opening.map((value, n) => `${(n * step).toFixed(1)},${(100 * (1 - (0.94 * value) / most)).toFixed(1)}`);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 1000 100");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", say("curve", { seconds: number(opening.length / 25) }));
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  line.setAttribute("points", points.join(" "));
  svg.append(line);
  return make("div", { class: "curve" }, svg, make("i"));
}

/** The source plays along with a take, and a line moves over its curve. */
function follow(video, figure) {
  const other = figure.closest(".group").querySelector("video.source");
  figure.querySelector(".curve").style.setProperty("--at", `${(100 * video.currentTime) / video.duration}%`);
  if (!other) return;
  other.playbackRate = video.playbackRate;
  if (Math.abs(other.currentTime - video.currentTime) > 0.1) other.currentTime = video.currentTime;
  if (other.paused !== video.paused) video.paused ? other.pause() : other.play().catch(() => {});
}

function take(job, report, again) {
  const video = make("video", {
    class: "result", src: `jobs/${job.id}/video`, controls: true, playsinline: true, preload: "auto",
    "aria-label": say("result", { seed: job.seed }),
  });
  const notes = [
    say("summary", { frames: report.frames, width: report.width, height: report.height, time: clock(report.seconds.total) }),
    ...(report.frames_without_face.count ? [say("kept", { count: report.frames_without_face.count })] : []),
    ...report.notes,
  ];
  const figure = make("figure", { "data-job": job.id },
    video,
    make("figcaption", {}, say("result", { seed: job.seed })),
    curve(report.lip_opening),
    ...notes.map((text) => make("p", { class: "note" }, text)),
    make("div", { class: "row actions" },
      said("a", "download", { class: "primary download", href: `jobs/${job.id}/video`, download: `talking-${job.seed}.mp4` }),
      said("a", "report", { class: "report", href: `jobs/${job.id}/report`, download: "report.json" }),
      said("a", "motion", { href: `jobs/${job.id}/motion`, download: "motion.json" }),
      said("button", "another", { type: "button", onclick: again }),
      said("button", "delete", { type: "button", class: "delete", onclick: (event) => remove(job, event.target) })));
  for (const name of ["play", "pause", "ended", "seeking", "ratechange", "timeupdate"]) {
    video.addEventListener(name, () => follow(video, figure));
  }
  video.addEventListener("play", () => {
    for (const other of groups.querySelectorAll("video.result")) if (other !== video) other.pause();
  });
  return figure;
}

async function remove(job, button) {
  button.disabled = true;
  await ask(`jobs/${job.id}`, "DELETE").catch(() => {});
  const group = button.closest(".group");
  button.closest("figure").remove();
  if (!group.querySelector("video.result")) group.remove();
  takes.hidden = !groups.children.length;
}

/** Show a job that was made; again(): makes another take of it. Returns its figure. */
export async function show(job, again) {
  const report = await ask(`jobs/${job.id}/report`);
  let group = [...groups.children].find((one) => one.dataset.face === job.face);
  if (!group) {
    group = make("div", { class: "group", "data-face": job.face });
    group.append(source(job, report));
    groups.prepend(group);
  }
  const figure = take(job, report, again);
  const first = group.querySelector("figure[data-job]");
  if (first) first.before(figure);
  else group.append(figure);
  takes.hidden = false;
  return figure;
}

/** Bring a new result into view, and play it. */
export function present(figure) {
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  figure.scrollIntoView({ block: "start", behavior: calm ? "auto" : "smooth" });
  figure.querySelector("video.result").play().catch(() => {}); // a browser may want a click first
}

export function clear() {
  groups.replaceChildren();
  takes.hidden = true;
}
