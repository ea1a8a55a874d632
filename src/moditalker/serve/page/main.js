// The page: three cards, what happens between them, and what was made before.

import { Problem, ask, send, showProblem } from "./api.js";
import { face } from "./face.js";
import { setUp as setUpLive } from "./live.js";
import { sound } from "./sound.js";
import { clear, present, show } from "./takes.js";
import { offer, say } from "./words.js";
import * as work from "./work.js";

const $ = (id) => document.getElementById(id);
const tabs = [...document.querySelectorAll("[role=tab]")];
const ATTEMPTS = 3; // to send a job over a connection that breaks
let service = null;
let turn = null; // what is being made: {controller, job}

// ------------------------------------------------------------------------------------------ tabs, options

const open = () => tabs.find((tab) => tab.getAttribute("aria-selected") === "true").id.slice(4);

function choose(tab) {
  for (const other of tabs) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", String(chosen));
    other.tabIndex = chosen ? 0 : -1;
    $(other.getAttribute("aria-controls")).hidden = !chosen;
  }
  $("video").classList.toggle("aside", tab.id === "tab-live");
  $("make").hidden = tab.id === "tab-live";
}

for (const tab of tabs) {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const there = tabs.filter((one) => !one.hidden);
    const next = there[(there.indexOf(tab) + step + there.length) % there.length];
    choose(next);
    next.focus();
  });
}

const field = (name) => document.querySelector(`#options [name=${name}]`);
const ranges = [...document.querySelectorAll("#options input[type=range]")];
const showValues = () => ranges.forEach((range) => { range.nextElementSibling.textContent = range.value; });
ranges.forEach((range) => range.addEventListener("input", showValues));
field("head").addEventListener("change", () => { $("head-field").hidden = field("head").value !== "file"; });

/** Options of a job, or, with live, those that a live session has too. */
function options(live = false) {
  const names = ["mouth_gain", "expression", "smoothing", "blink", "seed", ...(live ? [] : ["extend", "quality", "model", "consent"])];
  const wishes = Object.fromEntries(names.map((name) => [name, field(name).value]).filter(([, value]) => value !== ""));
  wishes.choose = (!live && field("speaker").value) || face.choice();
  wishes.head = field("head").value === "file" ? "idle" : field("head").value;
  const [head] = field("head_file").files;
  if (!live && field("head").value === "file" && head) wishes.head_file = head;
  return wishes;
}

// ------------------------------------------------------------------------------------------ making

const until = (promise, signal) => Promise.race([promise, new Promise((_, fail) => {
  signal.addEventListener("abort", () => fail(new DOMException("", "AbortError")));
})]);

function busy(on) {
  $("make").disabled = on;
  $("cancel").hidden = !on;
  $("cancel").disabled = false;
  $("cancel").textContent = say("cancel");
}

async function sent(fields, signal) {
  const key = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  for (let attempt = 1; ; attempt++) {
    try {
      return await send("jobs", fields, () => {}, signal, key);
    } catch (error) {
      if (error.status !== 0 || attempt === ATTEMPTS || signal.aborted) throw error;
      await new Promise((wait) => setTimeout(wait, 500 * attempt));
    }
  }
}

async function makeVideo() {
  const mine = turn = { controller: new AbortController(), job: null };
  const { signal } = mine.controller;
  busy(true);
  showProblem($("problem"), "");
  work.status("starting");
  try {
    const kind = open();
    if (!face.pending) throw new Problem(say("no_face"));
    if (kind === "sound" ? !sound.pending : !$("text").value.trim()) throw new Problem(say("no_sound"));
    if (!face.found) work.status("waiting_face");
    const fields = { face: (await until(face.ready("no_face"), signal)).id, compare: "true" };
    if (kind === "sound") {
      if (!sound.found) work.status("waiting_sound");
      fields.audio = (await until(sound.ready("no_sound"), signal)).id;
    } else Object.assign(fields, { text: $("text").value, voice: $("voice").value });
    work.status("starting");
    mine.job = await sent({ ...fields, ...options() }, signal);
    await ending(mine);
  } catch (error) {
    if (error.name === "AbortError") work.status("cancelled", {}, false);
    else {
      work.status("");
      showProblem($("problem"), error.message);
    }
  }
  if (turn === mine) {
    busy(false);
    turn = null;
  }
}

/** Follow a job that was sent to its end. */
async function ending(mine) {
  const job = await work.follow(mine.job);
  if (job.state === "made") {
    const figure = await show(job, another);
    work.status("made", {}, false);
    present(figure);
  } else if (job.state === "cancelled") work.status("cancelled", {}, false);
  else {
    work.status("");
    showProblem($("problem"), job.error);
  }
}

function another() {
  if (turn) return;
  field("seed").value = Number(field("seed").value) + 1;
  $("video").scrollIntoView({ block: "nearest" });
  makeVideo();
}

async function cancel() {
  $("cancel").disabled = true;
  $("cancel").textContent = say("cancelling");
  turn?.controller.abort();
  if (turn?.job) await ask(`jobs/${turn.job.id}`, "DELETE").catch((error) => showProblem($("problem"), error.message));
}

$("make").addEventListener("click", makeVideo);
$("cancel").addEventListener("click", cancel);

// ------------------------------------------------------------------------------------------ examples

async function sample(kind, name) {
  const answer = await fetch(`samples/${kind}`);
  const content = await answer.blob();
  return new File([content], name, { type: content.type });
}

async function example(tab) {
  work.status("starting");
  choose(tab);
  $("text").value = say("example_sentence");
  try {
    face.give(await sample("face", "portrait.jpg"));
    if (tab.id === "tab-sound") sound.give(await sample("audio", "sentence.flac"));
  } catch {
    showProblem($("problem"), say("lost"));
    return;
  }
  makeVideo();
}

$("example-sound").addEventListener("click", () => turn || example($("tab-sound")));
$("example-text").addEventListener("click", () => turn || example($("tab-text")));

$("forget").addEventListener("click", async () => {
  $("forget").disabled = true;
  turn?.controller.abort();
  try {
    await ask("visit", "DELETE");
    face.forget();
    sound.forget();
    clear();
    work.status("forgotten", {}, false);
  } catch (error) {
    showProblem($("problem"), error.message);
  }
  $("forget").disabled = false;
});

// ------------------------------------------------------------------------------------------ the beginning

function words() {
  if (service) {
    const { megabytes, seconds, keeping } = service.limits;
    $("intro").textContent = say("intro", { megabytes, seconds, minutes: Math.round(keeping / 60) });
  }
  $("text").placeholder = say("text_hint");
  face.render();
  sound.render();
  work.again();
}

function known(about) {
  service = about;
  face.most = sound.most = about.limits.megabytes;
  $("text").maxLength = about.limits.characters;
  const voices = Object.entries(about.voices);
  $("voice").append(...voices.map(([code, name]) => new Option(name, code, false, code === "en-us")));
  $("voice").parentElement.hidden = !voices.length;
  $("text").parentElement.hidden = !voices.length;
  $("no-voice").hidden = Boolean(voices.length);
  $("examples").hidden = !about.example;
  $("example-text").hidden = !voices.length;
  $("tab-live").hidden = !about.live;
  field("model").append(...about.models.map((name) => new Option(name)));
  field("blink").value = about.defaults.blink;
  field("quality").value = about.defaults.quality;
  showValues();
  words();
}

async function before() {
  const jobs = await ask("jobs?limit=12");
  for (const job of jobs.filter((one) => one.state === "made" && one.compare).reverse()) {
    await show(job, another).catch(() => {}); // it has just been deleted
  }
  const job = jobs.find((one) => one.state === "waiting" || one.state === "running");
  if (!job || turn) return;
  const mine = turn = { controller: new AbortController(), job };
  busy(true);
  await ending(mine).catch((error) => showProblem($("problem"), error.message));
  busy(false);
  turn = null;
}

async function begin() {
  try {
    known(await ask("service"));
  } catch (error) {
    $("token").hidden = error.status !== 401;
    if (error.status !== 401) showProblem($("problem"), error.message);
    return;
  }
  setUpLive(() => options(true));
  await before();
}

$("token").addEventListener("submit", async (event) => {
  event.preventDefault();
  const problem = $("token").querySelector(".problem");
  showProblem(problem, "");
  try {
    await send("visit", { token: new FormData($("token")).get("token") });
    $("token").hidden = true;
    await begin();
  } catch (error) {
    showProblem(problem, error.message);
  }
});

offer($("language"), words);
showValues();
begin().catch((error) => showProblem($("problem"), error.message));
