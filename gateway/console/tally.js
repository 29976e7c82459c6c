// What the clients of this page got: for each event who should have it and who has, and what must never happen. Pure.

/** @typedef {{id: string, type: string, user: string | null, at_ms: number, expected: number, got: number, last_ms: number}} Seen */

const NEWEST = 8;
const REMEMBERED = 5_000;

/** For each event and client once, whatever the client library says: it is what is tried. */
export class Tally {
  received = 0;
  doubled = 0;
  disordered = 0;
  gaps = 0;
  /** @type {Seen[]} those to be shown, newest first */
  newest = [];
  /** @type {Map<string, Seen>} */
  #byId = new Map();
  /** @type {Map<string, Set<string>>} by event, the clients that got it */
  #receivers = new Map();
  /** @type {Map<string, number>} by client and partition, the offset */
  #offsets = new Map();

  /**
   * @param {string} client
   * @param {{id: string, type: string, user: string | null, ts: number, isShown: boolean}} event
   * @param {number} expected how many clients of this page should get it
   * @param {number} now_ms
   */
  took(client, event, expected, now_ms) {
    this.received += 1;
    const receivers = this.#receivers.get(event.id) ?? new Set();
    if (receivers.has(client)) this.doubled += 1;
    receivers.add(client);
    this.#receivers.set(event.id, receivers);
    const cut = event.id.lastIndexOf("/");
    const place = `${client} ${event.id.slice(0, cut)}`;
    const offset = Number(event.id.slice(cut + 1));
    if (offset < (this.#offsets.get(place) ?? -1)) this.disordered += 1;
    this.#offsets.set(place, Math.max(offset, this.#offsets.get(place) ?? -1));
    let seen = this.#byId.get(event.id);
    if (!seen) {
      seen = { id: event.id, type: event.type, user: event.user, at_ms: event.ts, expected, got: 0, last_ms: 0 };
      this.#byId.set(event.id, seen);
      if (event.isShown) this.newest = [seen, ...this.newest].slice(0, NEWEST);
      this.#forget();
    }
    seen.got = receivers.size;
    seen.last_ms = Math.max(seen.last_ms, now_ms - event.ts);
  }

  /** A client that ends is not waited for, and begins anew when it comes again. @param {string} client */
  left(client) {
    for (const place of [...this.#offsets.keys()]) if (place.startsWith(`${client} `)) this.#offsets.delete(place);
  }

  #forget() {
    for (const id of this.#byId.keys()) {
      if (this.#byId.size <= REMEMBERED) return;
      this.#byId.delete(id);
      this.#receivers.delete(id);
    }
  }
}
