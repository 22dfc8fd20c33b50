// One part: its picture with the regions, its figures, its reviews, and the form of a new review.

import { get, linePath, post, sentence } from "./api.js";
import { draw, make } from "./dom.js";
import { count, nameOf, percent, pValue, score, when } from "./format.js";
import { verdictTag, WORDS } from "./verdict.js";

/** Small pictures are enlarged at most so many times. */
const ENLARGED = 4;
const VIEWS = { image: "Picture", heat: "Heat map" };

/** The address of a view of a part; null if its files are not kept or it could not be read. */
export function source(part, view) {
  if (part.verdict === "unreadable") return null;
  return view === "image" ? (part.files.picture ?? part.files.image) : part.files.heat;
}

/** The picture or the heat map with the regions as boxes, or why there is none. */
export function picture(part, view, chosen = -1) {
  const address = source(part, view);
  if (part.verdict === "unreadable") return missing(part.error || "The image could not be read.");
  if (!address) return missing("The picture is not kept any more.");
  const { width, height } = part;
  const image = draw("image", { href: address, width, height, preserveAspectRatio: "none" });
  const boxes = part.regions.map(({ box: [left, top, right, bottom] }, number) =>
    draw("rect", { x: left, y: top, width: right - left, height: bottom - top, class: number === chosen ? "chosen" : "" }),
  );
  const label = `${VIEWS[view]} of ${nameOf(part)}, ${count(part.regions.length, "marked region")}`;
  const shown = draw("svg", { class: "picture", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label }, image, boxes);
  shown.style.maxWidth = `${ENLARGED * width}px`;
  image.addEventListener("error", () => shown.replaceWith(missing("The picture cannot be loaded.")));
  return shown;
}

function missing(reason) {
  return make("p", { class: "empty" }, reason);
}

/** What matters about a part, as names and values. */
export function figures(part) {
  return list([
    ["verdict", verdictTag(part.verdict)],
    ["error", part.error],
    ["part", part.pose?.problem && `not found: ${part.pose.problem}`],
    ["line", part.line],
    ["serial", part.serial],
    ["lot", part.lot],
    ["judged", when(part.judged_at)],
    ["score", part.score !== null && `${score(part.score)}, threshold ${score(part.threshold)}`],
    ["p-value", part.p_value !== null && `${pValue(part.p_value)}: ${percent(part.p_value)} of the good calibration images score at least as high`],
    ...part.zones.map((zone) => [`zone ${zone.name}`, `score ${score(zone.score)}, p-value ${pValue(zone.p_value)}`]),
  ]);
}

/** Where a part and its verdict come from. */
export function origin(part, version) {
  return list([
    ["taken", part.taken_at && when(part.taken_at)],
    ["image-level p-value", part.whole_p_value !== null && pValue(part.whole_p_value)],
    ["model", version ? `version ${version.number} (${part.model.slice(0, 12)})` : part.model.slice(0, 12)],
    ["promise", version && sentence(version.promise)],
    ["file", part.image_name],
    ["size", part.width && `${part.width} × ${part.height} pixels`],
    ["sent by", `${part.by} (${part.source})`],
    ["duration", `${part.duration_ms.toFixed(0)} ms`],
    ["SHA-256", part.image_sha256],
    ["identifier", part.id],
  ]);
}

function list(rows) {
  const shown = rows.filter(([, value]) => value);
  return make("dl", { class: "values" }, shown.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
}

/** The regions as buttons that mark their boxes. */
export function regions(part, chosen, choose) {
  if (!part.regions.length) return make("p", { class: "soft" }, "None above the threshold.");
  const items = part.regions.map(({ box: [left, top, right, bottom], peak, zone, area_mm2, length_mm, width_mm }, number) => {
    const where = zone ? ` in ${zone}` : "";
    const size = area_mm2 ? `, ${area_mm2.toPrecision(2)} mm², ${length_mm.toPrecision(2)} mm long, ${width_mm.toPrecision(2)} mm wide` : "";
    const text = `Region ${number + 1}${where}: peak ${peak.toFixed(2)}, ${right - left} × ${bottom - top} px at (${left}, ${top})${size}`;
    const pressed = String(number === chosen);
    return make("li", {}, make("button", { type: "button", "aria-pressed": pressed, onclick: () => choose(number) }, text));
  });
  return make("ul", { class: "regions" }, items);
}

/** A button that shows the receipt; the station draws it when it is first asked for. */
export function receipt(part) {
  const place = make("div", { class: "receipt-place" });
  const show = () => {
    const image = make("img", { src: part.files.receipt, alt: `Receipt of ${nameOf(part)}: the patch beside its nearest good patches` });
    image.addEventListener("error", () => place.replaceChildren(missing("The receipt cannot be drawn.")));
    image.addEventListener("load", () => place.replaceChildren(make("a", { href: part.files.receipt, target: "_blank", rel: "noopener" }, image)));
    place.replaceChildren(make("p", { class: "soft", role: "status" }, "Drawing the receipt …"));
  };
  place.append(make("button", { type: "button", onclick: show }, "Show the receipt"));
  return place;
}

/** All reviews, newest first. */
export function reviews(list) {
  if (!list.length) return make("p", { class: "soft" }, "No review yet.");
  const items = [...list].reverse().map((review) =>
    make(
      "li",
      {},
      verdictTag(review.verdict),
      review.class ? ` · ${review.class}` : "",
      make("span", { class: "soft" }, ` by ${review.by}, ${when(review.at)}`),
      review.comment ? make("p", {}, review.comment) : null,
    ),
  );
  return make("ul", { class: "reviews" }, items);
}

/** The form of a new review. */
export function reviewForm(part, added) {
  const option = (verdict) =>
    make(
      "label",
      { class: "check" },
      make("input", { type: "radio", name: "verdict", value: verdict, required: true }),
      verdictTag(verdict),
    );
  const failed = make("p", { class: "alarm", role: "alert", hidden: true });
  const button = make("button", { class: "main" }, "Save the review");
  const form = make(
    "form",
    { class: "review-form", "aria-label": "Review this part" },
    make("fieldset", {}, make("legend", {}, "What is it really?"), option("ok"), option("ng")),
    make("label", { class: "field" }, "Class of the defect", make("input", { name: "class", maxlength: 64, autocomplete: "off" })),
    make("label", { class: "field" }, "Comment", make("textarea", { name: "comment", maxlength: 2000, rows: 2 })),
    button,
    failed,
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const given = new FormData(form);
    button.disabled = true;
    failed.hidden = true;
    try {
      const content = { verdict: given.get("verdict"), comment: given.get("comment"), class: given.get("class") || null };
      await post(`/api/inspections/${part.id}/reviews`, content);
      await added();
    } catch (problem) {
      failed.textContent = problem.message;
      failed.hidden = false;
    } finally {
      button.disabled = false;
    }
  });
  return form;
}

const versions = new Map();

/** The version of the model that judged a part; null if it is unknown. */
export async function versionOf(part) {
  const known = (models) => models.find((version) => version.digest === part.model) ?? null;
  const found = known(versions.get(part.line) ?? []);
  if (found) return found;
  versions.set(part.line, await get(linePath(part.line, "/models")));
  return known(versions.get(part.line));
}

/** A part as a card of a gallery; `attributes` are those of its element, `head` is its first line. */
export function card(part, element, attributes, note = null, head = [verdictTag(part.verdict), ` ${score(part.score)}`]) {
  const frame = part.files.thumbnail
    ? make("img", { src: part.files.thumbnail, alt: "", loading: "lazy", decoding: "async" })
    : make("span", { class: "soft" }, part.verdict === "unreadable" ? "cannot be read" : "not kept");
  return make(
    element,
    attributes,
    make("span", { class: "frame" }, frame),
    make(
      "span",
      { class: "text" },
      head,
      note,
      make("span", { class: "name" }, nameOf(part)),
    ),
  );
}

export const inWords = (part) => `${WORDS[part.verdict]}, ${nameOf(part)}`;
