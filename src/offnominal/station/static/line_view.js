// Draws the operator's page.

import { byId, draw, make, setText } from "./dom.js";
import { ago, nameOf, score, when } from "./format.js";
import { inWords, picture, source } from "./part.js";
import { REVIEWS, sign, WORDS } from "./verdict.js";

/** The verdict, as large as it gets. `newest` is given while an earlier part is shown; `showNewest` returns to it. */
export function showVerdict(part, newest, showNewest) {
  const panel = byId("verdict");
  const content = `${part?.id} ${newest?.id}`;
  if (panel.dataset.content === content) return; // a button in it may have the focus
  panel.dataset.content = content;
  panel.className = `verdict ${part ? part.verdict : "none"}${newest ? " earlier" : ""}`;
  if (!part) {
    fill(panel, make("p", { class: "word" }, "No part yet"), make("p", { class: "age" }, "The verdict appears here as soon as a part is inspected."));
    return;
  }
  panel.dataset.part = part.id;
  const word = make("p", { class: "word" }, WORDS[part.verdict]);
  fill(panel, sign(part.verdict), word, make("p", { class: "age", id: "age" }), newest && earlier(newest, showNewest));
  showAge(part);
}

const fill = (panel, ...content) => panel.replaceChildren(make("div", { class: "panel-in" }, content));

/** Says that the part shown is not the newest one, and which verdict that has. */
function earlier(newest, showNewest) {
  return make(
    "div",
    { class: `newest ${newest.verdict}` },
    make("span", {}, "Earlier part. Newest: ", make("b", {}, inWords(newest)), "."),
    make("button", { type: "button", id: "live", "aria-keyshortcuts": "Escape", onclick: showNewest }, "Show the newest ", make("kbd", {}, "Esc")),
  );
}

export function showAge(part) {
  const age = byId("age");
  if (age && part) setText(age, `${ago(part.judged_at)} · ${nameOf(part)}`);
}

export function showPicture(part, view) {
  if (part) byId("stage").replaceChildren(picture(part, view));
  else byId("stage").replaceChildren(make("p", { class: "empty" }, "No picture yet."));
  for (const button of document.querySelectorAll("[data-view]")) {
    button.setAttribute("aria-pressed", String(button.dataset.view === view));
    button.disabled = !part || !source(part, button.dataset.view);
  }
}

export function showAbout(part) {
  if (!part) return byId("about").replaceChildren();
  const rows = [["serial", part.serial ?? "–"], ["lot", part.lot ?? "–"], ["judged", when(part.judged_at)]];
  if (!part.serial) rows.unshift(["file", part.image_name]);
  const list = make("dl", {}, rows.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", { title: value }, value))));
  const missing = part.pose?.problem && make("p", { class: "error" }, `Part not found: ${part.pose.problem}`);
  byId("about").replaceChildren(list, missing || (part.score === null ? make("p", { class: "error" }, part.error ?? "") : gauge(part)));
}

/** Score against threshold. The threshold is in the middle; the bar ends at twice the threshold. */
function gauge(part) {
  const share = Math.min(1, Math.max(0, part.score / (2 * part.threshold || 1)));
  const text = `Score ${score(part.score)}, threshold ${score(part.threshold)}`;
  return make(
    "div",
    { class: `gauge ${part.verdict}` },
    make("p", {}, text),
    draw(
      "svg",
      { viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" },
      draw("rect", { class: "track", width: 100, height: 6 }),
      draw("rect", { class: "value", width: (100 * share).toFixed(2), height: 6 }),
      draw("rect", { class: "limit", x: 49.6, width: 0.8, height: 6 }),
    ),
  );
}

/** The review of the part shown: what is being saved, what failed, what people said. */
export function showAnswers(part, user, may, hint) {
  const wanted = part?.saving ?? part?.review;
  for (const [id, verdict] of [["fine", "ok"], ["bad", "ng"]]) {
    byId(id).disabled = !part || !may;
    byId(id).setAttribute("aria-pressed", String(wanted === verdict));
  }
  const said = [];
  if (part?.saving) said.push(make("p", {}, `Saving: ${nameOf(part)} is ${REVIEWS[part.saving]} …`));
  if (part?.failed) said.push(make("p", { class: "alarm" }, part.failed));
  if (hint) said.push(make("p", { class: "warning" }, hint));
  if (!part?.saving) said.push(...reviewsOf(part, user));
  if (!may) said.push(make("p", { class: "soft" }, `You are ${user.role}; reviews need the role operator.`));
  const place = byId("reviews");
  const text = said.map((element) => element.textContent).join("\n");
  if (place.dataset.text === text) return; // it is read out when it changes
  place.dataset.text = text;
  place.replaceChildren(...said);
}

function reviewsOf(part, user) {
  if (!part?.review) return [];
  const reviews = part.reviews ?? [];
  if (!reviews.length) return [make("p", {}, `Reviewed: ${REVIEWS[part.review]}.`)];
  return [...reviews].reverse().slice(0, 3).map((review, index) => {
    const by = review.by === user.name ? "you" : review.by;
    const text = `${index ? "Before" : "Reviewed"}: ${REVIEWS[review.verdict]}, by ${by}, ${when(review.at)}`;
    return make("p", { class: index ? "soft" : "" }, text, review.comment ? ` – ${review.comment}` : "");
  });
}

const tiles = new Map();

/** The last parts, newest first. Tiles are moved as little as possible, so that the focus stays. */
export function showStrip(parts, shown, select) {
  const list = byId("strip");
  const wanted = new Set(parts.map((part) => part.id));
  for (const [id, tile] of tiles) {
    if (wanted.has(id)) continue;
    tile.remove();
    tiles.delete(id);
  }
  parts.forEach((part, index) => {
    if (!tiles.has(part.id)) tiles.set(part.id, newTile(part, select));
    const tile = tiles.get(part.id);
    if (list.children[index] !== tile) list.insertBefore(tile, list.children[index] ?? null);
    const button = tile.firstElementChild;
    const here = part === shown;
    button.setAttribute("aria-pressed", String(here));
    button.tabIndex = here || (!parts.includes(shown) && index === 0) ? 0 : -1;
    button.querySelector(".said").textContent = part.review ? `reviewed ${REVIEWS[part.review]}` : "";
  });
}

function newTile(part, select) {
  const image = part.files.thumbnail ? make("img", { src: part.files.thumbnail, alt: "" }) : make("span", { class: "blank" });
  const button = make(
    "button",
    { type: "button", class: part.verdict, title: nameOf(part), onclick: () => select(part.id) },
    make("span", { class: "thumb" }, image, sign(part.verdict)),
    make("span", { class: "unseen" }, WORDS[part.verdict], " "),
    make("span", { class: "name" }, nameOf(part)),
    make("span", { class: "said" }),
  );
  return make("li", { "data-part": part.id }, button);
}

/** What a screen reader says about a new part. */
export function announce(part) {
  const figures = part.score === null ? "" : ` Score ${score(part.score)}, threshold ${score(part.threshold)}.`;
  setText(byId("announcement"), `${inWords(part)}.${figures}`);
}

/** Scrolls the tile of a part into view and moves the focus there if it was in the strip. */
export function follow(part) {
  const tile = tiles.get(part?.id);
  if (!tile) return;
  const list = byId("strip");
  const [left, right] = [tile.offsetLeft - list.offsetLeft, tile.offsetLeft - list.offsetLeft + tile.offsetWidth];
  if (left < list.scrollLeft) list.scrollLeft = left;
  else if (right > list.scrollLeft + list.clientWidth) list.scrollLeft = right - list.clientWidth;
  if (byId("strip").contains(document.activeElement)) tile.firstElementChild.focus();
}
