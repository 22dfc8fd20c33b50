// Teaching: choose good parts to learn, see what a new version changes, then activate it or not.

import { allows, get, linePath, post, query } from "./api.js";
import { BUSY, showCandidate } from "./candidate.js";
import { byId, confirmed, make, notice, setText, table } from "./dom.js";
import { count, nameOf, score, when } from "./format.js";
import { showModels } from "./models.js";
import { begin, run } from "./nav.js";
import { card } from "./part.js";
import { reviewTag } from "./verdict.js";

const POLL = 1000;
let line = "";
let polling = 0;

/** Runs an action, then shows the page anew; what fails is shown instead. */
async function act(action, done) {
  notice("");
  try {
    const answer = await action();
    await load();
    notice(typeof done === "function" ? done(answer) : done, "done");
  } catch (problem) {
    notice(problem.message);
  }
}

// ---- the parts to learn ---------------------------------------------------------------------------------------------
function showProposed(parts, busy) {
  const boxes = parts.map((part) => make("input", { type: "checkbox", value: part.id, checked: part.verdict === "ng", "aria-label": `Learn ${nameOf(part)}` }));
  const button = make("button", { type: "button", class: "main", id: "learn", onclick: () => propose(boxes) });
  const all = make("button", { type: "button", onclick: () => setAll(boxes.some((box) => !box.checked)) });
  const showCount = () => {
    const chosen = boxes.filter((box) => box.checked).length;
    setText(button, chosen ? `Make a new version from ${count(chosen, "part")}` : "Select parts to learn");
    button.disabled = busy || !chosen;
    setText(all, chosen < boxes.length ? "Select all" : "Select none");
  };
  const setAll = (checked) => {
    for (const box of boxes) box.checked = checked;
    showCount();
  };
  const cards = parts.map((part, index) => {
    const note = make("span", { class: "note" }, part.verdict === "ng" ? "false alarm" : "passed", `, ${when(part.judged_at)}`);
    boxes[index].addEventListener("change", showCount);
    return make("li", { class: "card pick" }, boxes[index], make("label", {}, card(part, "span", {}, note)), make("a", { class: "look", href: `/history#${part.id}`, target: "_blank", rel: "noopener", "aria-label": `Look at ${nameOf(part)}` }, "look"));
  });
  cards.forEach((item, index) => {
    boxes[index].id = `learn-${parts[index].id}`;
    item.querySelector("label").htmlFor = boxes[index].id;
  });
  showCount();
  byId("proposed").replaceChildren(
    make("h2", { id: "proposed-heading" }, "Parts to learn"),
    make("p", { class: "lead" }, "Parts that were reviewed OK and are not learned yet. False alarms come first and are selected."),
    ...(parts.length
      ? [make("p", { class: "choose" }, button, all, busy ? make("span", { class: "soft" }, "A new version is being made.") : ""), make("ul", { class: "gallery" }, cards)]
      : [make("p", { class: "empty panel" }, "None. Review flagged parts that are fine on the operator’s page or in the history.")]),
  );
}

async function propose(boxes) {
  const inspections = boxes.filter((box) => box.checked).map((box) => box.value);
  notice("");
  try {
    await post(linePath(line, "/candidates"), { inspections });
    await load();
    byId("candidate").scrollIntoView({ block: "start" });
  } catch (problem) {
    notice(problem.message);
  }
}

// ---- the candidate --------------------------------------------------------------------------------------------------
async function follow(id, of) {
  clearTimeout(polling);
  if (of !== line) return;
  try {
    const candidate = await get(`/api/candidates/${id}`);
    if (of !== line) return;
    showCandidate(byId("candidate"), candidate, close);
    if (!BUSY.includes(candidate.state)) return run(load);
  } catch (problem) {
    notice(problem.message);
  }
  polling = setTimeout(() => follow(id, of), POLL);
}

async function close(candidate, action) {
  const number = candidate.model.number;
  if (action === "activate") {
    const question = `Activate version ${number} on ${line}?`;
    if (!(await confirmed(question, "It judges every part from the next image on. You can roll back at any time.", "Activate"))) return;
  }
  const done = action === "activate" ? `Version ${number} is active.` : `Version ${number} was dismissed. It stays in the list below.`;
  await act(() => post(`/api/candidates/${candidate.id}/${action}`), done);
}

/** The candidate that needs attention: the newest, unless somebody has decided on it. */
async function showNewest(candidates) {
  clearTimeout(polling);
  const newest = candidates[0];
  const place = byId("candidate");
  if (!newest || ["activated", "dismissed"].includes(newest.state)) {
    place.hidden = true;
    place.replaceChildren();
    return;
  }
  const of = line;
  const candidate = await get(`/api/candidates/${newest.id}`);
  if (of !== line) return;
  showCandidate(place, candidate, close);
  if (BUSY.includes(candidate.state)) polling = setTimeout(() => follow(candidate.id, of), POLL);
}

// ---- what was missed ------------------------------------------------------------------------------------------------
function showMissed(parts) {
  const rows = parts.map((part) => [
    make("a", { href: `/history#${part.id}` }, part.files.thumbnail ? make("img", { src: part.files.thumbnail, alt: "", loading: "lazy" }) : null, nameOf(part)),
    when(part.judged_at),
    part.lot,
    score(part.score),
    score(part.threshold),
    reviewTag(part.review),
  ]);
  const content = parts.length
    ? table("Missed parts", ["part", "judged", "lot", "#score", "#threshold", "review"], rows, { class: "parts" })
    : make("p", { class: "empty" }, "None so far.");
  content.classList.add("panel");
  byId("missed").replaceChildren(
    make("h2", { id: "missed-heading" }, "Missed parts"),
    make("p", { class: "lead" }, "Parts that passed and were reviewed NG. Nothing is learned from them; they show what the model does not find."),
    content,
  );
}

// ---- the page -------------------------------------------------------------------------------------------------------
async function load() {
  const of = line;
  const teaching = await get(linePath(of, "/teach"));
  if (of !== line) return;
  await showNewest(teaching.candidates);
  showProposed(teaching.proposed, teaching.candidates.some((candidate) => BUSY.includes(candidate.state)));
  showMissed(teaching.missed);
  await showModels(byId("versions"), of, act);
}

await run(async () => {
  const user = await begin();
  if (!allows(user, "engineer")) {
    notice(`You are ${user.role}; this page needs the role engineer.`);
    return;
  }
  const lines = await get("/api/lines");
  if (!lines.length) {
    notice("There is no line yet. An admin creates lines in the settings.", "warning");
    return;
  }
  const field = byId("filters").elements.line;
  field.append(...lines.map((one) => make("option", {}, one.name)));
  const asked = new URLSearchParams(location.search).get("line");
  if (lines.some((one) => one.name === asked)) field.value = asked;
  line = field.value;
  field.addEventListener("change", async () => {
    line = field.value;
    notice("");
    history.replaceState(null, "", `/teach${query({ line })}`);
    await run(load);
  });
  await load();
});
