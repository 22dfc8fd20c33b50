// The dialog of one part, over a list through which one can walk.

import { allows, get } from "./api.js";
import { byId, make, setText } from "./dom.js";
import { nameOf } from "./format.js";
import { figures, origin, picture, receipt, regions, reviewForm, reviews, source, versionOf } from "./part.js";

const PART = /^#([0-9a-f]{32})$/;

export class Viewer {
  /** `list` gives the parts in order; `changed` is called with a part that was reviewed; `closed` with the last one shown. */
  constructor(user, { list, changed, closed }) {
    Object.assign(this, { user, list, changed, closed });
    this.dialog = byId("viewer");
    this.view = "heat";
    this.part = null;
    byId("close").addEventListener("click", () => this.dialog.close());
    byId("previous").addEventListener("click", () => this.step(-1));
    byId("next").addEventListener("click", () => this.step(1));
    for (const button of this.dialog.querySelectorAll("[data-view]"))
      button.addEventListener("click", () => this.show(button.dataset.view));
    // On the document: the focus may be on nothing, after a button has gone.
    document.addEventListener("keydown", (event) => this.dialog.open && this.key(event));
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
    this.dialog.addEventListener("close", () => {
      history.replaceState(null, "", location.pathname + location.search);
      this.closed(this.part);
      this.part = null;
    });
    window.addEventListener("hashchange", () => this.follow());
  }

  /** Opens the part that the address names. */
  follow() {
    const linked = PART.exec(location.hash);
    if (linked && linked[1] !== this.part?.id) this.open(linked[1]);
  }

  /** Shows a part: at once what the list knows, then its reviews and its model version. */
  async open(id) {
    const known = this.list().find((part) => part.id === id);
    if (known) this.fill(known);
    if (!this.dialog.open) this.dialog.showModal();
    byId("viewer-body").scrollTop = 0;
    history.replaceState(null, "", `#${id}`);
    try {
      const part = await get(`/api/inspections/${id}`);
      const version = await versionOf(part);
      if (location.hash === `#${id}`) this.fill(part, version);
    } catch (problem) {
      byId("viewer-facts").replaceChildren(make("p", { class: "alarm", role: "alert" }, problem.message));
    }
  }

  step(by) {
    const parts = this.list();
    const next = parts[parts.findIndex((part) => part.id === this.part?.id) + by];
    if (next) this.open(next.id);
  }

  fill(part, version = null) {
    if (this.part?.id !== part.id) this.chosen = -1;
    this.part = part;
    setText(byId("viewer-name"), nameOf(part));
    const parts = this.list();
    const at = parts.findIndex((other) => other.id === part.id);
    setText(byId("place"), at < 0 ? "" : `${at + 1} of ${parts.length} on this page`);
    byId("previous").disabled = at <= 0;
    byId("next").disabled = at < 0 || at >= parts.length - 1;
    this.show(this.view);
    const read = part.verdict !== "unreadable";
    const content = [figures(part), read ? make("h3", {}, "Regions") : "", make("div", { id: "viewer-regions" })];
    if (part.files.receipt) content.push(receipt(part));
    content.push(make("h3", { id: "viewer-reviews", tabindex: "-1" }, "Reviews"));
    if (part.reviews) content.push(reviews(part.reviews));
    if (part.reviews && allows(this.user, "operator")) content.push(reviewForm(part, () => this.reviewed(part.id)));
    content.push(make("h3", {}, "Origin"), origin(part, version));
    byId("viewer-facts").replaceChildren(...content);
    this.choose(this.chosen);
  }

  async reviewed(id) {
    const part = await get(`/api/inspections/${id}`);
    this.changed(part);
    if (this.part?.id !== id) return;
    this.fill(part, await versionOf(part));
    byId("viewer-reviews").focus(); // the form that had the focus is gone
  }

  show(view) {
    this.view = view;
    byId("stage").replaceChildren(picture(this.part, view, this.chosen));
    for (const button of this.dialog.querySelectorAll("[data-view]")) {
      button.setAttribute("aria-pressed", String(button.dataset.view === view));
      button.disabled = !source(this.part, button.dataset.view);
    }
  }

  choose(number) {
    this.chosen = number;
    byId("viewer-regions").replaceChildren(this.part.verdict === "unreadable" ? "" : regions(this.part, number, (other) => this.choose(other)));
    [...byId("stage").querySelectorAll("rect")].forEach((rect, index) => rect.setAttribute("class", index === number ? "chosen" : ""));
    if (number >= 0) byId("viewer-regions").querySelectorAll("button")[number].focus();
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input, textarea, select")) return;
    const act = {
      ArrowRight: () => this.step(1),
      ArrowLeft: () => this.step(-1),
      1: () => this.show("image"),
      2: () => this.show("heat"),
    }[event.key];
    if (act && this.part) {
      act();
      event.preventDefault();
    }
  }
}
