// The lines at a glance: ready or not, the model and its promise, drift, the last verdict.

import { allows, get, linePath, sentence } from "./api.js";
import { byId, make, notice } from "./dom.js";
import { ago, nameOf } from "./format.js";
import { begin, run } from "./nav.js";
import { problemsOf } from "./health.js";
import { verdictTag } from "./verdict.js";

const EVERY = 5000;

function state(line) {
  if (line.problem) return make("span", { class: "tag bad" }, "problem");
  if (!line.model) return make("span", { class: "tag" }, "no model");
  return line.ready ? make("span", { class: "tag ok" }, "ready") : make("span", { class: "tag" }, "loading");
}

function lastPart(part) {
  if (!part) return make("p", { class: "soft last" }, "No part yet.");
  const shown = part.files.thumbnail ? make("img", { src: part.files.thumbnail, alt: "" }) : null;
  return make("p", { class: "last" }, shown, make("span", {}, verdictTag(part.verdict), make("span", { class: "soft" }, nameOf(part), " · ", ago(part.judged_at))));
}

function links(line, user) {
  const name = encodeURIComponent(line.name);
  const all = [
    ["Operator’s page", `/line/${name}`, true],
    ["History", `/history?line=${name}`, true],
    ["Charts", `/charts?line=${name}`, true],
    ["Teach", `/teach?line=${name}`, allows(user, "engineer")],
  ];
  return make("p", { class: "links" }, all.filter(([, , may]) => may).map(([text, href], index) => make("a", { href, class: index ? "button" : "button main" }, text)));
}

function lineCard(line, part, user) {
  const model = line.model
    ? [make("b", {}, `Model ${line.model.number}`), ": ", sentence(line.model.promise)]
    : ["No model is active. ", allows(user, "engineer") ? make("a", { href: `/teach?line=${encodeURIComponent(line.name)}` }, "Upload one") : "Ask an engineer to upload one", "."];
  return make(
    "li",
    { class: "panel" },
    make("h2", {}, line.name, " ", state(line)),
    line.problem ? make("p", { class: "alarm" }, sentence(line.problem)) : null,
    line.drift.warning ? make("p", { class: "warning" }, line.drift.message) : null,
    lastPart(part),
    make("p", { class: "soft promise" }, model),
    links(line, user),
  );
}

function showEmpty(user) {
  byId("empty").hidden = false;
  const how = allows(user, "admin")
    ? ["Create the first line in the ", make("a", { href: "/settings" }, "settings"), ", then upload its model."]
    : ["An admin creates lines in the settings."];
  byId("empty").replaceChildren("There is no line yet. ", ...how);
}

let drawn = "";

async function refresh(user) {
  const [lines, problems] = await Promise.all([get("/api/lines"), problemsOf()]);
  const pages = await Promise.all(lines.map((line) => get(linePath(line.name, "/inspections?limit=1"))));
  byId("problems").replaceChildren(...problems.filter((text) => !text.startsWith("line ")).map((text) => make("p", { class: "alarm" }, sentence(text))));
  const content = JSON.stringify([lines, pages]);
  if (content !== drawn || !byId("lines").contains(document.activeElement)) {
    const focused = document.activeElement?.getAttribute("href"); // the list is drawn anew; the focus stays
    byId("lines").replaceChildren(...lines.map((line, index) => lineCard(line, pages[index].items[0], user)));
    if (focused) [...byId("lines").querySelectorAll("a")].find((link) => link.getAttribute("href") === focused)?.focus();
    drawn = content;
  }
  byId("empty").hidden = true;
  if (!lines.length) showEmpty(user);
  byId("lines").removeAttribute("aria-busy");
}

await run(async () => {
  const user = await begin();
  for (;;) {
    try {
      await refresh(user);
      notice("");
    } catch (problem) {
      notice(problem.message);
    }
    await new Promise((resolve) => setTimeout(resolve, EVERY));
  }
});
