// Counts of the shift: asked from the station now and then, and counted on with every event in between.

import { get, linePath } from "./api.js";
import { byId, make } from "./dom.js";
import { percent, toLocalInput } from "./format.js";
import { sign, WORDS } from "./verdict.js";

const EVERY = 30_000, SOON = 1000;
/** A start that was chosen so long ago is not that of this shift. */
const LONGEST = 24 * 3600_000;

export class Shift {
  constructor(line) {
    Object.assign(this, { line, key: `offnominal-shift-${line}`, counts: null, asking: false, missed: false, catching: false, timer: 0 });
    byId("since").addEventListener("change", (event) => this.choose(event.target.value));
    byId("now").addEventListener("click", () => this.choose(toLocalInput(new Date())));
    this.show();
    this.refresh();
  }

  /** The start that the user chose, otherwise the last midnight. */
  since() {
    const chosen = new Date(localStorage.getItem(this.key) ?? "");
    if (Date.now() - chosen.getTime() < LONGEST) return chosen;
    const midnight = new Date();
    midnight.setHours(0, 0, 0, 0);
    return midnight;
  }

  choose(value) {
    if (value) localStorage.setItem(this.key, new Date(value).toISOString());
    else localStorage.removeItem(this.key);
    this.counts = null;
    this.show();
    this.refresh();
  }

  /** The events that were missed are about to arrive: the station has counted them already, so ask it after them. */
  catchUp() {
    this.catching = true;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.refresh(), SOON);
  }

  /** Counts a part that has just been judged. */
  add(part) {
    if (this.asking) this.missed = true; // the answer may have it or not: ask again
    else if (this.catching) return;
    else if (this.counts && new Date(part.judged_at) >= this.since()) this.counts[part.verdict] += 1;
    this.show();
  }

  async refresh() {
    clearTimeout(this.timer);
    const since = this.since().toISOString();
    this.asking = true;
    this.missed = this.catching = false;
    try {
      const counts = await get(`${linePath(this.line, "/counts")}?since=${encodeURIComponent(since)}`);
      if (since === this.since().toISOString()) this.counts = counts;
    } catch {
      // the page says that the station is away
    }
    this.asking = false;
    this.show();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.refresh(), this.missed || this.catching ? SOON : EVERY);
  }

  show() {
    const field = byId("since");
    if (document.activeElement !== field) field.value = toLocalInput(this.since());
    const { ok = 0, ng = 0, unreadable = 0 } = this.counts ?? {};
    const shown = { ok, ng, ...(unreadable ? { unreadable } : {}) };
    const share = ok + ng ? ` (${percent(ng / (ok + ng))})` : "";
    byId("counts").replaceChildren(
      ...Object.entries(shown).map(([verdict, number]) =>
        make(
          "div",
          { class: verdict },
          make("dt", {}, sign(verdict), WORDS[verdict]),
          make("dd", {}, this.counts ? String(number) : "–", make("small", {}, verdict === "ng" ? share : "")),
        ),
      ),
    );
  }
}
