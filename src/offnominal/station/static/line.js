// The operator's page: the last part of a line, live, and the operator's word on it.

import { allows, get, linePath, post, sentence } from "./api.js";
import { byId, confirmed, make, notice, setText } from "./dom.js";
import { problemsFor, watchHealth } from "./health.js";
import * as view from "./line_view.js";
import { begin, patiently, run } from "./nav.js";
import { Shift } from "./shift.js";
import { Stream } from "./stream.js";
import { WORDS } from "./verdict.js";

const STRIP = 20;
const HEALTH_EVERY = 3000, STATE_EVERY = 10_000;
/** A press so soon after a new part appeared is probably meant for the part before. */
const SETTLE = 500;
/** After so long without a key or a touch, an earlier part gives way to the newest. */
const FORGET = 120_000;
const DRAW_EVERY = 50;
const AWAY = "The station is not reachable. Reconnecting …";

const line = decodeURIComponent(location.pathname.slice("/line/".length));
let user, may, shift, stream;
let parts = []; // newest first
let shown = null; // the part on the screen
let live = true; // the newest part is shown, whichever it is
let picture = "heat";
let hint = "";
let appearedAt = -SETTLE; // when a new part replaced another one by itself
let touchedAt = 0;
let drawnAt = -DRAW_EVERY, drawing = 0;
let drawnPart; // whose picture is on the screen
let announced = null; // the part that a screen reader hears about next

// ---- drawing ------------------------------------------------------------------------------------------------------
/** Draws at once, but not for every one of many events that arrive together. */
function refresh() {
  if (drawing) return;
  const wait = drawnAt + DRAW_EVERY - performance.now();
  if (wait > 0) drawing = setTimeout(redraw, wait);
  else redraw();
}

function redraw() {
  clearTimeout(drawing);
  drawing = 0;
  drawnAt = performance.now();
  if (live) shown = parts[0] ?? null;
  if (announced) view.announce(announced);
  announced = null;
  const focused = document.activeElement?.id === "live";
  view.showVerdict(shown, live ? null : parts[0], backToLive);
  if (focused) byId("live")?.focus();
  view.showAbout(shown);
  view.showAnswers(shown, user, may, hint);
  if (drawnPart !== shown) view.showPicture(shown, picture);
  drawnPart = shown;
  view.showStrip(parts, shown, select);
  document.title = `${shown ? WORDS[shown.verdict] : "–"} · ${line} · offnominal`;
}

// ---- which part is shown --------------------------------------------------------------------------------------------
function select(id) {
  const part = parts.find((other) => other.id === id);
  if (!part) return;
  shown = part;
  live = part === parts[0];
  hint = "";
  appearedAt = -SETTLE;
  redraw();
  view.follow(part);
  if (part.review && !part.reviews) loadReviews(part);
}

function walk(by) {
  const at = parts.indexOf(shown);
  const next = parts[at < 0 ? 0 : at + by];
  if (next) select(next.id);
}

function backToLive() {
  if (parts.length) select(parts[0].id);
}

function add(part) {
  if (parts.some((known) => known.id === part.id)) return;
  const later = parts.findIndex((known) => known.id < part.id);
  parts.splice(later < 0 ? parts.length : later, 0, part);
  parts = parts.slice(0, STRIP);
  if (live && parts[0] === part) {
    if (shown) appearedAt = performance.now();
    hint = "";
  }
  announced = part;
  refresh();
}

// ---- reviews --------------------------------------------------------------------------------------------------------
async function answer(verdict) {
  const part = shown;
  if (!part || !may || part.saving) return;
  if (performance.now() - appearedAt < SETTLE) {
    hint = "A new part appeared just then, so nothing was saved. Press again if you mean this one.";
    return refresh();
  }
  hint = "";
  part.saving = verdict;
  part.failed = null;
  redraw();
  try {
    note(part, await post(`/api/inspections/${part.id}/reviews`, { verdict }));
    loadReviews(part);
  } catch (problem) {
    part.failed = `Not saved: ${problem.message}`;
  }
  part.saving = null;
  redraw();
}

/** Shows a review at once; `loadReviews` then gives all of them. */
function note(part, review) {
  const last = part.reviews?.at(-1);
  part.review = review.verdict;
  if (last?.by !== review.by || last?.verdict !== review.verdict) part.reviews = [...(part.reviews ?? []), review];
}

async function loadReviews(part) {
  try {
    const { review, reviews } = await get(`/api/inspections/${part.id}`);
    Object.assign(part, { review, reviews });
    refresh();
  } catch {
    // what is known is shown
  }
}

/** A review by anybody, also from another browser. */
function reviewed({ inspection, by, at }) {
  const part = inspection.id === shown?.id ? shown : parts.find((known) => known.id === inspection.id);
  if (!part) return;
  if (part === shown) {
    note(part, { by, at, verdict: inspection.review });
    loadReviews(part);
  } else {
    Object.assign(part, { review: inspection.review, reviews: null });
  }
  refresh();
}

// ---- the station ----------------------------------------------------------------------------------------------------
function happened(event) {
  if (event.kind === "inspection") {
    shift.add(event.inspection);
    add(event.inspection);
  } else if (event.kind === "review") reviewed(event);
  else loadState();
}

async function loadState() {
  try {
    showState(await get(linePath(line)));
  } catch {
    // the page says that the station is away
  }
}

function showState(state) {
  setText(byId("model"), state.model ? `Model ${state.model.number}: ${sentence(state.model.promise)}` : "No model is active on this line.");
  byId("drift").hidden = !state.drift.warning;
  setText(byId("drift-message"), state.drift.message ?? "");
}

async function resetDrift() {
  const explanation = "Do so once the cause is corrected. The monitor then judges the parts from now on.";
  if (!(await confirmed(`Start the drift monitor of ${line} anew?`, explanation, "Start anew"))) return;
  try {
    await post(linePath(line, "/drift/reset"));
    await loadState();
  } catch (problem) {
    showProblems([problem.message]);
  }
}

function showProblems(problems) {
  const place = byId("problems");
  const texts = problems.map(sentence);
  if (place.dataset.text === texts.join("\n")) return;
  place.dataset.text = texts.join("\n");
  place.replaceChildren(...texts.map((text) => make("p", { class: "alarm" }, text)));
}

function showConnection(connected) {
  byId("board").classList.toggle("stale", !connected);
  setText(byId("connection"), connected ? "" : AWAY);
  if (!connected) return;
  shift.catchUp();
  loadState();
}

// ---- keys and buttons -----------------------------------------------------------------------------------------------
const KEYS = { f: () => answer("ok"), b: () => answer("ng"), ArrowLeft: () => walk(-1), ArrowRight: () => walk(1), Escape: backToLive };

function pressed(event) {
  touchedAt = performance.now();
  if (event.altKey || event.ctrlKey || event.metaKey || document.querySelector("dialog[open]")) return;
  if (event.target.closest("input:not([type=checkbox]), select, textarea")) return;
  const letter = event.key.length === 1;
  const act = KEYS[letter ? event.key.toLowerCase() : event.key];
  if (!act || (letter && (event.repeat || !byId("keys").checked))) return;
  event.preventDefault();
  act();
}

function wire() {
  document.addEventListener("keydown", pressed);
  document.addEventListener("pointerdown", () => (touchedAt = performance.now()));
  byId("fine").addEventListener("click", () => answer("ok"));
  byId("bad").addEventListener("click", () => answer("ng"));
  byId("drift-reset").hidden = !allows(user, "engineer");
  byId("drift-reset").addEventListener("click", resetDrift);
  for (const button of document.querySelectorAll("[data-view]"))
    button.addEventListener("click", () => {
      picture = button.dataset.view;
      view.showPicture(shown, picture);
    });
  byId("fullscreen").addEventListener("click", () => (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen()));
  document.addEventListener("fullscreenchange", () => byId("fullscreen").setAttribute("aria-pressed", String(Boolean(document.fullscreenElement))));
  const keys = byId("keys");
  keys.checked = localStorage.getItem("offnominal-keys") !== "off";
  keys.addEventListener("change", () => localStorage.setItem("offnominal-keys", keys.checked ? "on" : "off"));
}

function everySecond() {
  view.showAge(shown);
  if (!live && performance.now() - touchedAt > FORGET) backToLive();
}

await run(async () => {
  setText(byId("line-name"), line);
  user = await begin();
  may = allows(user, "operator");
  const state = await patiently(() => get(linePath(line)));
  const page = await patiently(() => get(linePath(line, `/inspections?limit=${STRIP}`)));
  parts = page.items;
  byId("board").hidden = false;
  showState(state);
  shift = new Shift(line);
  wire();
  redraw();
  if (shown?.review) loadReviews(shown);
  stream = new Stream(line, state.last_event, {
    event: happened,
    problem: (detail) => showProblems([detail]),
    connected: showConnection,
  });
  watchHealth(HEALTH_EVERY, (problems) => (problems === null ? stream.doubt() : showProblems(problemsFor(line, problems))));
  setInterval(loadState, STATE_EVERY);
  setInterval(everySecond, 1000);
  notice("");
});
