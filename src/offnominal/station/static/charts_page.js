// The charts of a line; what they show is in the address.

import { get, linePath, query } from "./api.js";
import { controlChart, groupName, rateChart, scoreChart } from "./charts.js";
import { byId, make, notice, table } from "./dom.js";
import { fromLocalInput, percent, score, toLocalInput, when } from "./format.js";
import { begin, run } from "./nav.js";
import { verdictTag, WORDS } from "./verdict.js";

const NAMES = ["line", "by", "since", "until"];
const HOUR = 3600_000;
let figures = null;
let drawnWidth = 0;

const form = () => byId("filters");
const chosen = () => Object.fromEntries(NAMES.map((name) => [name, form().elements[name].value]));

/** The choice with times in UTC, as the station and the address have it. */
function filter() {
  const { since, until, ...rest } = chosen();
  return { ...rest, since: fromLocalInput(since), until: fromLocalInput(until) };
}

function fillForm() {
  const given = new URLSearchParams(location.search);
  for (const name of NAMES) {
    const value = given.get(name);
    const field = form().elements[name];
    if (!value) continue;
    const date = new Date(value);
    if (field.type !== "datetime-local") field.value = value;
    else if (!Number.isNaN(date.getTime())) field.value = toLocalInput(date);
    if (field.tagName === "SELECT" && field.selectedIndex < 0) field.selectedIndex = 0;
  }
}

/** Whether the history can show the parts of a group: it cannot filter for parts without a lot. */
const named = (group) => group.name !== "no lot";

/** The parts of a group in the history. */
function historyOf(group) {
  const { line } = chosen();
  if (figures.chart.by === "lot") return `/history${query({ line, lot: group.name })}`;
  const start = new Date(group.name);
  return `/history${query({ line, since: start.toISOString(), until: new Date(start.getTime() + HOUR).toISOString() })}`;
}

function figure(title, chart, caption, rows) {
  const details = make("details", {}, make("summary", {}, "Figures as a table"));
  // The table may be long: it is built when it is asked for.
  if (rows) details.addEventListener("toggle", () => details.childElementCount === 1 && details.append(rows()));
  return make("figure", {}, make("h2", {}, title), chart, make("figcaption", {}, caption), rows ? details : null);
}

function controlFigure(width) {
  const { chart } = figures;
  const out = chart.groups.filter((group) => group.out);
  const caption = out.length
    ? `Outside the limits: ${out.map((group) => groupName(chart, group)).join(", ")}. In a stable process, about 3 of 1000 groups are outside by chance.`
    : "No group is outside the limits: the variation is consistent with chance.";
  const rows = () =>
    table(
      "Share of NG",
      [chart.by, "parts", "NG", "share", "lower limit", "upper limit", "outside"],
      chart.groups.map((group) => [
        named(group) ? make("a", { href: historyOf(group) }, groupName(chart, group)) : group.name,
        group.n,
        group.ng,
        percent(group.share),
        percent(group.lower),
        percent(group.upper),
        group.out ? "yes" : "no",
      ]),
    );
  return figure("Share of NG", controlChart(chart, width, (group) => named(group) && location.assign(historyOf(group))), caption, rows);
}

function scoreFigure(width) {
  const address = (part) => `/history#${part.id}`;
  const rows = () =>
    table(
      "Scores",
      ["judged", "score", "threshold", "verdict"],
      [...figures.scores].reverse().map((part) => [make("a", { href: address(part) }, when(part.at)), score(part.score), score(part.threshold), verdictTag(part.verdict)]),
    );
  const caption = `The last ${figures.scores.length} parts. Those above the threshold are NG. Select a point to see the part.`;
  return figure("Scores", scoreChart(figures.scores, width, (part) => location.assign(address(part))), caption, rows);
}

function alarmFigure(width) {
  const alarms = figures.false_alarms;
  return figure("False alarms", rateChart(alarms, width), alarms.sentence, null);
}

function showCounts() {
  const { ok, ng, unreadable } = figures.counts;
  const tile = (name, value, note = "") => make("div", { class: "tile" }, make("span", {}, name), make("b", {}, String(value)), make("span", {}, note));
  const share = ok + ng ? `${percent(ng / (ok + ng))} of the parts` : "";
  byId("counts").replaceChildren(tile(WORDS.ok, ok), tile(WORDS.ng, ng, share), tile("unreadable", unreadable));
}

function show() {
  const place = byId("charts");
  drawnWidth = Math.max(300, Math.min(1200, place.clientWidth - 30));
  showCounts();
  const any = figures.counts.ok + figures.counts.ng > 0;
  place.replaceChildren(...(any ? [controlFigure, scoreFigure, alarmFigure].map((drawn) => drawn(drawnWidth)) : [make("p", { class: "empty" }, "No part was inspected in this time.")]));
  place.removeAttribute("aria-busy");
}

async function load() {
  const { line, ...rest } = filter();
  history.replaceState(null, "", `/charts${query({ line, ...rest })}`);
  try {
    figures = await get(linePath(line, `/statistics${query(rest)}`));
    notice("");
    show();
  } catch (problem) {
    notice(problem.message);
  }
}

await run(async () => {
  await begin();
  const lines = await get("/api/lines");
  if (!lines.length) {
    byId("charts").replaceChildren(make("p", { class: "empty" }, "There is no line yet."));
    return;
  }
  form().elements.line.append(...lines.map((line) => make("option", {}, line.name)));
  fillForm();
  form().addEventListener("change", load);
  form().addEventListener("submit", (event) => event.preventDefault());
  new ResizeObserver(() => {
    const width = Math.max(300, Math.min(1200, byId("charts").clientWidth - 30));
    if (figures && Math.abs(width - drawnWidth) > 20) show();
  }).observe(byId("charts"));
  await load();
});
