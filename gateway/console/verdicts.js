// @ts-check
// What is wrong, and why: each in one sentence that says what to do. Pure.

/** @typedef {import("./minute.js").Fleet} Fleet */
/** @typedef {{level: "bad" | "warn", where: string, text: string}} Verdict */

export const SILENT_MS = 5_000;
const LAG = 1_000;
const SLOW_MS = 100;
const LOOKS = 5;
const BUFFERED = 64 * 1024 * 1024;
const SLOW_CONSUMER = "4000";

/**
 * @param {import("./minute.js").Minute} minute
 * @returns {Verdict[]} the worst first
 */
export function verdicts(minute) {
  const fleet = minute.fleets.at(-1);
  if (!fleet) return [];
  const found = [...ofRedis(fleet), ...ofSlowRedis(minute), ...ofRelays(fleet), ...ofReplicas(fleet), ...ofTheMinute(minute)];
  return found.sort((a, b) => Number(b.level === "bad") - Number(a.level === "bad"));
}

/** What is to be read aloud: a verdict once, when it comes or grows worse. Its text may change each second. */
export class News {
  /** @type {Set<string>} */
  #said = new Set();

  /** @param {Verdict[]} wrong all that is wrong now @returns {string} empty when nothing is new */
  of(wrong) {
    const now = new Map(wrong.map((verdict) => [`${verdict.level} ${verdict.where}`, verdict]));
    const fresh = [...now].filter(([key]) => !this.#said.has(key)).map(([, { text }]) => text);
    const isMended = this.#said.size > 0 && !now.size;
    this.#said = new Set(now.keys());
    return isMended ? "All is well again." : fresh.join(" ");
  }
}

/** @param {Fleet} fleet @returns {Verdict[]} */
function ofRedis({ redis }) {
  if (redis.up) return [];
  return [{ level: "bad", where: "redis",
    text: `Redis does not answer: ${redis.error}. Connected clients stay, new ones get 503; nothing is lost.` }];
}

/**
 * Each of the last few looks was slow; one alone may be the fault of a busy replica.
 * @param {import("./minute.js").Minute} minute
 * @returns {Verdict[]}
 */
function ofSlowRedis({ fleets }) {
  const looks = fleets.slice(-LOOKS).map(({ redis }) => redis.ms ?? 0);
  const fastest = Math.min(...looks);
  if (looks.length < LOOKS || fastest < SLOW_MS) return [];
  return [{ level: "warn", where: "redis",
    text: `Redis takes ${number(fastest)} ms and more to answer: events come so much later. Look at its SLOWLOG, its CPU and the network.` }];
}

/** @param {Fleet} fleet @returns {Verdict[]} */
function ofRelays({ relays, redis }) {
  if (!redis.up) return []; // they cannot be heard then
  const heard = relays.filter((relay) => relay.seen_ms_ago <= SILENT_MS);
  const found = /** @type {Verdict[]} */ ([]);
  if (!heard.length) {
    const last = relays.length ? `the last was heard ${ago(Math.min(...relays.map((relay) => relay.seen_ms_ago)))}` : "none was heard for a minute";
    found.push({ level: "bad", where: "relay", text: `No relay runs: ${last}. Events wait in Redpanda until one is started.` });
  } else {
    for (const relay of relays) {
      if (relay.seen_ms_ago > SILENT_MS) {
        found.push({ level: "warn", where: relay.name, text: `Relay ${relay.name} was last heard ${ago(relay.seen_ms_ago)}; its partitions go to the others.` });
      }
    }
  }
  for (const relay of heard) {
    if (relay.state === "stalled") found.push({ level: "bad", where: relay.name, text: `Relay ${relay.name} is stalled: ${relay.reason}.` });
    if (relay.state === "starting") found.push({ level: "warn", where: relay.name, text: `Relay ${relay.name} starts: ${relay.reason}.` });
  }
  for (const [topic, records] of Object.entries(lagOf(heard))) {
    if (records > LAG) found.push({ level: "warn", where: topic, text: `${topic} is ${number(records)} records behind.` });
  }
  return found;
}

/** @param {Fleet} fleet @returns {Verdict[]} */
function ofReplicas({ replicas, redis }) {
  const found = /** @type {Verdict[]} */ ([]);
  if (!replicas.length && redis.up) found.push({ level: "bad", where: "replicas", text: "No replica was heard for a minute." });
  for (const replica of replicas) {
    const why = replica.reason ? `: ${replica.reason}` : "";
    if (redis.up && replica.seen_ms_ago > SILENT_MS) {
      found.push({ level: "bad", where: replica.name, text: `Replica ${replica.name} was last heard ${ago(replica.seen_ms_ago)}: it has died, or cannot reach Redis.` });
    } else if (replica.state === "deaf" || (redis.up && replica.state === "away")) {
      found.push({ level: "bad", where: replica.name, text: `Replica ${replica.name} is ${replica.state}${why}.` });
    } else if (replica.state === "starting" || replica.state === "draining") {
      found.push({ level: "warn", where: replica.name, text: `Replica ${replica.name} is ${replica.state}${replica.state === "draining" ? "" : why}.` });
    }
    if (replica.buffered_bytes > BUFFERED) {
      found.push({ level: "warn", where: replica.name, text: `Replica ${replica.name} holds ${bytes(replica.buffered_bytes)} for clients that read too slowly.` });
    }
  }
  return found;
}

/** @param {import("./minute.js").Minute} minute @returns {Verdict[]} */
function ofTheMinute(minute) {
  const found = /** @type {Verdict[]} */ ([]);
  const replicas = (/** @type {Fleet} */ fleet) => fleet.replicas;
  const gaps = minute.rise(replicas, (replica) => replica.gaps.unfillable);
  if (gaps) found.push({ level: "bad", where: "gaps", text: `${many(gaps, "hole")} of the last minute could not be filled: clients were told. Is the history too short?` });
  const slow = minute.rise(replicas, (replica) => replica.closes[SLOW_CONSUMER]);
  if (slow) found.push({ level: "warn", where: "slow", text: `${many(slow, "client")} read too slowly in the last minute and ${slow === 1 ? "was" : "were"} closed; the others did not notice.` });
  const dead = minute.rise((fleet) => fleet.relays, (relay) => deadOf(relay.events));
  if (dead) found.push({ level: "warn", where: "dead", text: `${many(dead, "record")} of the last minute went to the dead letters.` });
  return found;
}

/** @param {Record<string, Record<string, number>>} events */
function deadOf(events) {
  return Object.values(events).reduce((sum, results) => sum + (results.dead_lettered ?? 0), 0);
}

/** Records behind, by topic, of all relays together. @param {import("./minute.js").Relay[]} relays */
export function lagOf(relays) {
  /** @type {Record<string, number>} */
  const lag = {};
  for (const relay of relays) {
    for (const [topic, records] of Object.entries(relay.lag)) lag[topic] = (lag[topic] ?? 0) + records;
  }
  return lag;
}

/** @param {number} ms */
export function ago(ms) {
  return ms < 1_500 ? "a second ago" : `${Math.round(ms / 1_000)} s ago`;
}

/** @param {number} value */
export function number(value) {
  return value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 });
}

/** @param {number} value */
export function bytes(value) {
  if (value < 1_024) return `${value} B`;
  const power = Math.min(3, Math.floor(Math.log2(value) / 10));
  return `${number(value / 1_024 ** power)} ${"KMG"[power - 1]}iB`;
}

/** @param {number} count @param {string} what */
function many(count, what) {
  return `${number(count)} ${what}${count === 1 ? "" : "s"}`;
}
