// @ts-check
// What the clients of this page got: for each event who should have it and who has, and what must never happen. Pure.

/**
 * @typedef {{id: string, stream: string, epoch: string, seq: number, ts: number}} Event of notify.v1
 * @typedef {{id: string, type: string, user: string | null, at_ms: number, owed: Set<string>, got: Set<string>, last_ms: number | null}} Sent
 * `got` are all who have it, `owed` those who should; `last_ms` is how late the last one was
 */

const NEWEST = 5;
const REMEMBERED = 5_000;

/** For each event and client once, whatever the client library says: it is what is tried. */
export class Tally {
  received = 0;
  doubled = 0;
  disordered = 0;
  gaps = 0;
  /** @type {Sent[]} those sent from here, newest first */
  newest = [];
  /** @type {Map<string, {got: Set<string>, last_ms: number}>} by id, the clients that got it */
  #receivers = new Map();
  /** @type {Map<string, {offsets: Map<string, number>, places: Map<string, {epoch: string, seq: number}>}>} by client */
  #clients = new Map();

  /** @param {string} client @param {Event} event @param {number} now_ms */
  took(client, { id, stream, epoch, seq, ts }, now_ms) {
    this.received += 1;
    const receivers = this.#receiversOf(id);
    if (receivers.got.has(client)) this.doubled += 1;
    receivers.got.add(client);
    receivers.last_ms = Math.max(receivers.last_ms, now_ms - ts);

    const known = this.#clients.get(client) ?? { offsets: new Map(), places: new Map() };
    this.#clients.set(client, known);
    const cut = id.lastIndexOf("/");
    const [partition, offset] = [id.slice(0, cut), Number(id.slice(cut + 1))];
    const highest = known.offsets.get(partition) ?? -1;
    if (offset < highest) this.disordered += 1;
    known.offsets.set(partition, Math.max(offset, highest));

    // Within an epoch seq rises by one for a client that wants all types (docs/protocol.md).
    const place = known.places.get(stream);
    if (place?.epoch === epoch && seq > place.seq + 1) this.gaps += seq - place.seq - 1;
    if (place?.epoch !== epoch || seq > place.seq) known.places.set(stream, { epoch, seq });

    for (const sent of this.newest) if (sent.id === id) sent.last_ms = receivers.last_ms;
  }

  /** The client was told of a gap. */
  missed() {
    this.gaps += 1;
  }

  /**
   * An event was sent from here, and is to be shown; some may have got it before this is known.
   * @param {{id: string, type: string, user: string | null}} event
   * @param {Iterable<string>} owed the clients that were connected, or coming back, when it was sent
   * @param {number} now_ms
   */
  sent({ id, type, user }, owed, now_ms) {
    const { got, last_ms } = this.#receiversOf(id);
    const sent = { id, type, user, at_ms: now_ms, owed: new Set(owed), got, last_ms: got.size ? last_ms : null };
    this.newest = [sent, ...this.newest].slice(0, NEWEST);
  }

  /** A client that ends is not waited for, and begins anew when it comes again. @param {string} client */
  left(client) {
    this.#clients.delete(client);
    for (const sent of this.newest) if (!sent.got.has(client)) sent.owed.delete(client);
  }

  /** @param {string} id */
  #receiversOf(id) {
    let receivers = this.#receivers.get(id);
    if (!receivers) {
      receivers = { got: new Set(), last_ms: 0 };
      this.#receivers.set(id, receivers);
      for (const old of this.#receivers.keys()) {
        if (this.#receivers.size <= REMEMBERED) break;
        this.#receivers.delete(old);
      }
    }
    return receivers;
  }
}

/** How many of those who should have an event have it. @param {Sent} sent */
export function gotOf({ owed, got }) {
  return [...owed].filter((client) => got.has(client)).length;
}
