// Verdicts by colour and by shape: a circle with a tick, an octagon with a cross, a triangle with an exclamation mark.

import { draw, make } from "./dom.js";

export const WORDS = { ok: "OK", ng: "NG", unreadable: "UNREADABLE" };
/** The words of a review on the operator's page. */
export const REVIEWS = { ok: "fine", ng: "bad" };

const SHAPES = {
  ok: ["circle", { cx: 50, cy: 50, r: 47 }],
  ng: ["polygon", { points: "31,3 69,3 97,31 97,69 69,97 31,97 3,69 3,31" }],
  unreadable: ["polygon", { points: "50,6 98,94 2,94" }],
};
const MARKS = { ok: "M27 52 L44 69 L75 35", ng: "M32 32 L68 68 M68 32 L32 68", unreadable: "M50 38 L50 64 M50 78 L50 79" };

/** The shape of a verdict. It has no name of its own: the word stands beside it. */
export function sign(verdict) {
  const [shape, attributes] = SHAPES[verdict];
  return draw(
    "svg",
    { class: `sign ${verdict}`, viewBox: "0 0 100 100", "aria-hidden": "true" },
    draw(shape, { class: "shape", ...attributes }),
    draw("path", { class: "mark", d: MARKS[verdict] }),
  );
}

/** The shape and the word. */
export function verdictTag(verdict) {
  return make("span", { class: `verdict-tag ${verdict}` }, sign(verdict), WORDS[verdict]);
}

/** What a person said; null if nobody did. */
export function reviewTag(review) {
  return review ? make("span", { class: `review-tag ${review}` }, review === "ok" ? "reviewed OK" : "reviewed NG") : null;
}
