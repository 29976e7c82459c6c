// @ts-check
// What the feed said in the last minute, and what follows from it: rates, series, histograms. Pure.

/**
 * @typedef {{name: string, seen_ms_ago: number, started_ms: number, state: string, reason: string | null}} Process
 * @typedef {Process & {partitions: number, events: Record<string, Record<string, number>>, lag: Record<string, number>,
 *   epochs_begun: number, redis_up: boolean,
 *   dead_letters: {at_ms: number, topic: string, partition: number, offset: number, reason: string}[]}} Relay
 * @typedef {Process & {address: string, connections: number, users: number, streams: number, buffered_bytes: number,
 *   replaying: number, deliveries: Record<string, number>,
 *   latency: Record<string, {counts: number[], sum_ms: number}>, closes: Record<string, number>,
 *   gaps: Record<string, number>, replays: Record<string, number>, handshakes: Record<string, number>,
 *   refusals: Record<string, number>}} Replica
 * @typedef {{at_ms: number, redis: {up: boolean, ms: number | null, error: string | null, address: string},
 *   topics: {topic: string, type: string, audience: string}[], relays: Relay[], replicas: Replica[],
 *   latency_bounds_ms: number[]}} Fleet
 */

export const KEEP_MS = 60_000;

/** Fleets of the last minute. What is counted in them is cumulative for each process since it started. */
export class Minute {
  /** @type {Fleet[]} oldest first */
  fleets = [];

  /** @param {Fleet} fleet */
  add(fleet) {
    const newest = this.fleets.at(-1);
    if (newest && fleet.at_ms <= newest.at_ms) this.fleets = []; // another replica's clock
    this.fleets.push(fleet);
    this.fleets = this.fleets.filter((one) => fleet.at_ms - one.at_ms <= KEEP_MS);
  }

  /**
   * By how much a count rose in the last `ms`, all processes of a kind together.
   * @template {Relay | Replica} P
   * @param {(fleet: Fleet) => P[]} kind
   * @param {(process: P) => number | undefined} count
   */
  rise(kind, count, ms = KEEP_MS) {
    const steps = this.#steps(ms);
    return steps.reduce((sum, [before, after]) => sum + rise(kind(before), kind(after), count, before.at_ms), 0);
  }

  /**
   * The same per second, over the last few seconds, so that it is steady.
   * @template {Relay | Replica} P
   * @param {(fleet: Fleet) => P[]} kind
   * @param {(process: P) => number | undefined} count
   */
  rate(kind, count, ms = 3_000) {
    const steps = this.#steps(ms);
    const took_ms = steps.reduce((sum, [before, after]) => sum + after.at_ms - before.at_ms, 0);
    return took_ms ? (1_000 * this.rise(kind, count, ms)) / took_ms : 0;
  }

  /**
   * Rates of each second of the minute, the newest last; fewer while the page is young.
   * @template {Relay | Replica} P
   * @param {(fleet: Fleet) => P[]} kind
   * @param {(process: P) => number | undefined} count
   */
  series(kind, count) {
    return this.#steps(KEEP_MS).map(([before, after]) => ({
      at_ms: after.at_ms,
      rate: (1_000 * rise(kind(before), kind(after), count, before.at_ms)) / (after.at_ms - before.at_ms),
    }));
  }

  /** Each look with the one before it. @param {number} ms @returns {[Fleet, Fleet][]} */
  #steps(ms) {
    /** @type {[Fleet, Fleet][]} */
    const steps = [];
    let before;
    for (const fleet of this.fleets) {
      if ((this.fleets.at(-1)?.at_ms ?? 0) - fleet.at_ms > ms) continue;
      if (before) steps.push([before, fleet]);
      before = fleet;
    }
    return steps;
  }
}

/** Each process of a look with itself in the look before: found once, not for each figure. @type {WeakMap<object, unknown>} */
const paired = new WeakMap();

/** @template {Process} P @param {P[]} before @param {P[]} after @returns {{was: P | undefined, now: P}[]} */
function pairs(before, after) {
  const known = /** @type {{was: P | undefined, now: P}[] | undefined} */ (paired.get(after));
  if (known) return known;
  const byName = new Map(before.map((process) => [process.name, process]));
  const made = after.map((now) => {
    const was = byName.get(now.name);
    return { was: was?.started_ms === now.started_ms ? was : undefined, now };
  });
  paired.set(after, made);
  return made;
}

/**
 * A process that began meanwhile counts from zero; one that was only not heard before does not.
 * @template {Relay | Replica} P
 * @param {P[]} before
 * @param {P[]} after
 * @param {(process: P) => number | undefined} count
 * @param {number} before_ms
 */
function rise(before, after, count, before_ms) {
  let sum = 0;
  for (const { was, now } of pairs(before, after)) {
    const counted = count(now) ?? 0;
    if (was) sum += Math.max(0, counted - (count(was) ?? 0));
    else if (now.started_ms > before_ms) sum += counted;
  }
  return sum;
}

/**
 * Up to which age a share of the messages was, in ms, between the bounds of its class; null without any. In the last
 * class, which has no bound, its lower one.
 * @param {number[]} counts by class, one more than bounds
 * @param {number[]} bounds_ms
 * @param {number} share
 */
export function quantile(counts, bounds_ms, share) {
  const all = counts.reduce((sum, count) => sum + count, 0);
  if (!all) return null;
  let upto = 0;
  let low = 0;
  for (const [place, count] of counts.entries()) {
    const high = bounds_ms[place] ?? low;
    if (count && upto + count >= share * all) return low + ((share * all - upto) / count) * (high - low);
    upto += count;
    low = high;
  }
  return low;
}
