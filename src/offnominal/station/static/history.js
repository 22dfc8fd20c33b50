// The history: filters in the address, a table or a grid, page by page, and one part in a dialog.

import { get, query } from "./api.js";
import { byId, make, notice, setText, table } from "./dom.js";
import { count, fromLocalInput, nameOf, score, toLocalInput, when } from "./format.js";
import { begin, run } from "./nav.js";
import { card } from "./part.js";
import { reviewTag, verdictTag } from "./verdict.js";
import { Viewer } from "./viewer.js";

const NAMES = ["line", "serial", "lot", "verdict", "review", "since", "until"];
const PAGE = 60;
const LAYOUT = "offnominal-history";
let parts = [];
let next = null;
let asked = 0; // the number of the latest request for a list; answers to older ones are dropped
let viewer = null;

const form = () => byId("filters");

/** The filter that the address holds. Times are in UTC there. */
function filter() {
  const given = new URLSearchParams(location.search);
  return Object.fromEntries(NAMES.map((name) => [name, given.get(name) ?? ""]));
}

function fillForm() {
  for (const [name, value] of Object.entries(filter())) {
    const field = form().elements[name];
    const date = new Date(value);
    if (field.type !== "datetime-local") field.value = value;
    else field.value = value && !Number.isNaN(date.getTime()) ? toLocalInput(date) : "";
  }
}

function readForm() {
  return Object.fromEntries(
    NAMES.map((name) => {
      const field = form().elements[name];
      return [name, field.type === "datetime-local" ? fromLocalInput(field.value) : field.value.trim()];
    }),
  );
}

async function load(more = false) {
  const mine = ++asked;
  byId("list").setAttribute("aria-busy", "true");
  try {
    const page = await get(`/api/inspections${query({ ...filter(), after: more ? next : "", limit: PAGE })}`);
    if (mine !== asked) return;
    parts = more ? [...parts, ...page.items] : page.items;
    next = page.next;
    notice("");
    show(more ? parts.length - page.items.length : -1);
  } catch (problem) {
    if (mine === asked) notice(problem.message);
  } finally {
    if (mine === asked) byId("list").removeAttribute("aria-busy");
  }
}

/** Draws the list; moves the focus to the part at `focus`, if any. */
function show(focus = -1) {
  const grid = layout() === "grid";
  byId("list").replaceChildren(grid ? gallery() : rows());
  for (const button of document.querySelectorAll("[data-layout]"))
    button.setAttribute("aria-pressed", String(button.dataset.layout === layout()));
  byId("empty").hidden = parts.length > 0;
  byId("more").hidden = next === null;
  setText(byId("shown"), parts.length ? `${count(parts.length, "part")} shown${next === null ? "" : "; there are more"}` : "");
  byId("csv").href = `/api/export.csv${query(filter())}`;
  byId("report").href = `/api/report.zip${query(filter())}`;
  for (const name of ["csv", "report"]) byId(name).hidden = !parts.length;
  if (focus >= 0) links()[focus]?.focus();
}

const layout = () => localStorage.getItem(LAYOUT) ?? "table";
const links = () => [...byId("list").querySelectorAll("a[data-part]")];
const linkOf = (part) => ({ href: `#${part.id}`, "data-part": part.id });

function rows() {
  const headings = ["part", "judged", "line", "lot", "verdict", "#score", "#threshold", "review"];
  const cells = parts.map((part) => [
    make("a", linkOf(part), part.files.thumbnail ? make("img", { src: part.files.thumbnail, alt: "", loading: "lazy" }) : null, nameOf(part)),
    make("time", { datetime: part.judged_at }, when(part.judged_at)),
    part.line,
    part.lot,
    verdictTag(part.verdict),
    score(part.score),
    score(part.threshold),
    reviewTag(part.review),
  ]);
  const content = table("Parts", headings, parts.length ? cells : [], { class: "parts" });
  content.classList.add("panel");
  return parts.length ? content : "";
}

function gallery() {
  const note = (part) => make("span", { class: "note" }, part.review ? reviewTag(part.review) : when(part.judged_at));
  return make("ul", { class: "gallery" }, parts.map((part) => make("li", { class: "card" }, card(part, "a", linkOf(part), note(part)))));
}

/** The list knows a part only without its reviews. */
function changed(part) {
  parts = parts.map((other) => (other.id === part.id ? part : other));
  show();
}

function closed(part) {
  links().find((link) => link.dataset.part === part?.id)?.focus();
}

function apply() {
  history.replaceState(null, "", location.pathname + query(readForm()));
  load();
}

await run(async () => {
  const user = await begin();
  viewer = new Viewer(user, { list: () => parts, changed, closed });
  const lines = await get("/api/lines");
  form().elements.line.append(...lines.map((line) => make("option", {}, line.name)));
  fillForm();
  form().addEventListener("change", apply);
  form().addEventListener("submit", (event) => {
    event.preventDefault();
    apply();
  });
  form().addEventListener("reset", () => {
    history.replaceState(null, "", location.pathname);
    setTimeout(load);
  });
  byId("more").addEventListener("click", () => load(true));
  for (const button of document.querySelectorAll("[data-layout]"))
    button.addEventListener("click", () => {
      localStorage.setItem(LAYOUT, button.dataset.layout);
      show();
    });
  byId("list").addEventListener("click", (event) => {
    const link = event.target.closest("a[data-part]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    viewer.open(link.dataset.part);
  });
  await load();
  viewer.follow();
});
