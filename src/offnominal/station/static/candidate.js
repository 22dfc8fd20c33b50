// A candidate: a new model version in the making, and what it would change among the latest parts.

import { sentence } from "./api.js";
import { make } from "./dom.js";
import { count, percent, score, when } from "./format.js";
import { card } from "./part.js";
import { reviewTag, verdictTag } from "./verdict.js";

export const BUSY = ["updating", "replaying"];
const STEPS = { updating: "Learning the parts", replaying: "Replaying the latest parts" };

/** Fills the section with a candidate. `close(candidate, action)` activates or dismisses it. */
export function showCandidate(place, candidate, close) {
  place.hidden = false;
  const heading = make("h2", { id: "candidate-heading" }, "New version");
  const about = make("p", { class: "lead" }, `From ${count(candidate.inspections.length, "part")}, proposed by ${candidate.by}, ${when(candidate.at)}.`);
  place.replaceChildren(heading, about, make("div", { class: "panel" }, content(candidate, close)));
}

function content(candidate, close) {
  if (BUSY.includes(candidate.state)) return progress(candidate);
  if (candidate.state === "failed") return make("p", { class: "alarm" }, sentence(candidate.error ?? "It failed"));
  return [summary(candidate), changes(candidate.result), candidate.state === "ready" ? decision(candidate, close) : ""];
}

function progress(candidate) {
  const label = `${STEPS[candidate.state]} …`;
  return [
    make("p", { role: "status" }, `${label} ${percent(candidate.progress, 0)}`),
    make("progress", { value: candidate.progress, max: 1, "aria-label": label }),
    make("p", { class: "soft" }, "You can leave this page; the work goes on."),
  ];
}

function summary({ result, model }) {
  const tile = (name, value, note) => make("div", { class: "tile" }, make("span", {}, name), make("b", {}, value), make("span", {}, note));
  const reviewed = "reviewed parts whose verdict differs from the review";
  return [
    make(
      "div",
      { class: "tiles" },
      tile("Threshold", `${score(result.threshold_before)} → ${score(result.threshold_after)}`, "before and after"),
      tile("Changed verdicts", String(result.changed), `of ${result.replayed} replayed parts`),
      tile("Wrong verdicts", `${result.wrong_before} → ${result.wrong_after}`, reviewed),
      tile("Learned", String(result.learned), result.unreadable ? `${count(result.unreadable, "part")} could not be read` : `version ${model.number}`),
    ),
    make("p", {}, make("b", {}, "Guarantee: "), sentence(result.promise)),
    result.not_replayed ? make("p", { class: "warning" }, `${count(result.not_replayed, "image")} could not be read again and were not replayed.`) : "",
  ];
}

function changes(result) {
  if (!result.changed) return make("p", {}, "No verdict of the replayed parts changes.");
  const shown = result.changes.map(({ inspection, before, after }) => {
    const head = make("span", { class: "turn" }, verdictTag(before.verdict), " → ", verdictTag(after.verdict));
    const note = make("span", { class: "note" }, `${score(before.score)} → ${score(after.score)} `, effect(inspection.review, after.verdict));
    const link = card(inspection, "a", { href: `/history#${inspection.id}`, target: "_blank", rel: "noopener" }, note, head);
    return make("li", { class: "card" }, link);
  });
  const left = result.changed - result.changes.length;
  return [
    make("h3", {}, "Verdicts that change"),
    make("ul", { class: "gallery" }, shown),
    left > 0 ? make("p", { class: "soft" }, `${left} more change and are not shown.`) : "",
  ];
}

/** Whether a changed verdict is right now, as far as a review tells. */
function effect(review, verdict) {
  if (!review) return "";
  return [reviewTag(review), " ", make("b", { class: review === verdict ? "better" : "worse" }, review === verdict ? "now right" : "now wrong")];
}

function decision(candidate, close) {
  return make(
    "p",
    { class: "choose" },
    make("button", { type: "button", class: "main", id: "activate", onclick: () => close(candidate, "activate") }, "Activate this version"),
    make("button", { type: "button", id: "dismiss", onclick: () => close(candidate, "dismiss") }, "Dismiss"),
  );
}
