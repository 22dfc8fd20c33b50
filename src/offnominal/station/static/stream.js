// Events of a line. The stream reconnects by itself, from the event that was seen last, so it misses nothing.

import { goToLogin, linePath } from "./api.js";

const RETRY = 1000;

export class Stream {
  /**
   * `after` is the number of the last event that is known. `handlers` has `event(data)`, `problem(detail)`, and
   * `connected(boolean)`, which is called at every change.
   */
  constructor(line, after, handlers) {
    Object.assign(this, { line, last: after, handlers, isConnected: null, source: null, timer: 0 });
    this.connect();
  }

  connect() {
    clearTimeout(this.timer);
    this.source?.close();
    const source = new EventSource(`${linePath(this.line, "/events")}?after=${this.last}`);
    this.source = source;
    source.addEventListener("open", () => this.tell(true));
    source.addEventListener("message", (message) => {
      this.last = Number(message.lastEventId);
      this.handlers.event(JSON.parse(message.data));
    });
    source.addEventListener("problem", (message) => this.handlers.problem(JSON.parse(message.data).detail));
    source.addEventListener("error", () => {
      source.close(); // a browser gives up after an answer such as 503; this does not
      this.tell(false);
      this.timer = setTimeout(() => this.reconnect(), RETRY);
    });
  }

  /** Connects again, unless the login has ended. */
  async reconnect() {
    try {
      const answer = await fetch("/api/me", { cache: "no-store", signal: AbortSignal.timeout(8 * RETRY) });
      if (answer.status === 401) return goToLogin();
      if (answer.ok) return this.connect();
    } catch {
      // not reachable yet
    }
    this.timer = setTimeout(() => this.reconnect(), RETRY);
  }

  /** The station did not answer another request: the connection may be dead without an error, so it is made anew. */
  doubt() {
    if (!this.isConnected) return;
    this.source.close();
    this.tell(false);
    this.timer = setTimeout(() => this.reconnect(), RETRY);
  }

  tell(connected) {
    if (connected === this.isConnected) return;
    this.isConnected = connected;
    this.handlers.connected(connected);
  }
}
