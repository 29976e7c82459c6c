// What is wrong, and why.

import assert from "node:assert/strict";
import test from "node:test";

import { Minute } from "../../gateway/console/minute.js";
import { ago, bytes, lagOf, News, number, verdicts } from "../../gateway/console/verdicts.js";

const relay = (more = {}) => ({
  name: "r-1", seen_ms_ago: 100, started_ms: 1, state: "ready", reason: null, events: {}, lag: {}, dead_letters: [], ...more,
});
const replica = (more = {}) => ({
  name: "g-1", seen_ms_ago: 100, started_ms: 1, state: "ready", reason: null, buffered_bytes: 0, closes: {},
  gaps: { filled: 0, unfillable: 0 }, ...more,
});
const fleet = (more = {}) => ({
  at_ms: 1_000_000, redis: { up: true, ms: 1, error: null, address: "x" }, topics: [], relays: [relay()], replicas: [replica()],
  latency_bounds_ms: [], ...more,
});

function found(...fleets) {
  const minute = new Minute();
  for (const one of fleets) minute.add(one);
  return verdicts(minute);
}

/** Level and where of each. */
const short = (...fleets) => found(...fleets).map(({ level, where }) => `${level} ${where}`);

test("nothing is wrong with what is well, nor with what is not known", () => {
  assert.deepEqual(short(fleet()), []);
  assert.deepEqual(short(), []);
});

test("without Redis that is what is wrong, and not that nobody can be heard", () => {
  const away = { redis: { up: false, ms: null, error: "refused", address: "x" } };
  const silent = { relays: [relay({ seen_ms_ago: 20_000 })], replicas: [replica({ seen_ms_ago: 20_000, state: "away" })] };
  const wrong = found(fleet({ ...away, ...silent }));
  assert.deepEqual(wrong.map(({ where }) => where), ["redis"]);
  assert.match(wrong[0].text, /refused/);
});

test("a Redis that is slow is named once that is no accident", () => {
  const looks = (...ms) => short(...ms.map((took, second) => fleet({ at_ms: 1_000 * second, redis: { up: true, ms: took, error: null, address: "x" } })));
  assert.deepEqual(looks(200, 120, 150, 300, 110), ["warn redis"]);
  assert.deepEqual(looks(1, 1, 200, 120, 150, 300, 110), ["warn redis"]);
  assert.deepEqual(looks(200, 120, 3, 300, 110), []);
  assert.deepEqual(looks(200, 120, 150, 300), [], "not known yet");
  assert.deepEqual(looks(200, 120, 150, 300, 110, 2), []);
});

test("without a relay events wait", () => {
  assert.deepEqual(short(fleet({ relays: [] })), ["bad relay"]);
  assert.deepEqual(short(fleet({ relays: [relay({ seen_ms_ago: 9_000 })] })), ["bad relay"]);
  assert.match(found(fleet({ relays: [relay({ seen_ms_ago: 9_000 })] }))[0].text, /9 s ago/);
});

test("one relay of two that is silent is less", () => {
  assert.deepEqual(short(fleet({ relays: [relay(), relay({ name: "r-2", seen_ms_ago: 9_000 })] })), ["warn r-2"]);
});

test("a relay says why it does not relay", () => {
  const [stalled] = found(fleet({ relays: [relay({ state: "stalled", reason: "Redpanda does not answer" })] }));
  assert.deepEqual([stalled.level, stalled.text], ["bad", "Relay r-1 is stalled: Redpanda does not answer."]);
  assert.deepEqual(short(fleet({ relays: [relay({ state: "starting", reason: "waiting for Redis" })] })), ["warn r-1"]);
});

test("a replica that is deaf, away, silent, starting or draining is named", () => {
  const of = (more) => short(fleet({ replicas: [replica(more)] }));
  assert.deepEqual(of({ state: "deaf", reason: "why" }), ["bad g-1"]);
  assert.deepEqual(of({ state: "away" }), ["bad g-1"]);
  assert.deepEqual(of({ seen_ms_ago: 6_000 }), ["bad g-1"]);
  assert.deepEqual(of({ state: "starting" }), ["warn g-1"]);
  assert.deepEqual(of({ state: "draining", reason: "draining" }), ["warn g-1"]);
  assert.deepEqual(of({ buffered_bytes: 100 * 1024 * 1024 }), ["warn g-1"]);
  assert.deepEqual(short(fleet({ replicas: [] })), ["bad replicas"]);
});

test("what a topic is behind is said", () => {
  assert.deepEqual(short(fleet({ relays: [relay({ lag: { a: 900 } }), relay({ name: "r-2", lag: { a: 200 } })] })), ["warn a"]);
  assert.deepEqual(lagOf([relay({ lag: { a: 1, b: 2 } }), relay({ lag: { a: 3 } })]), { a: 4, b: 2 });
});

test("what happened within the minute is said, the worst first", () => {
  const before = fleet({ at_ms: 999_000 });
  const after = fleet({
    relays: [relay({ events: { a: { dead_lettered: 2 } } })],
    replicas: [replica({ closes: { 4000: 1 }, gaps: { filled: 5, unfillable: 1 } })],
  });
  assert.deepEqual(short(before, after), ["bad gaps", "warn slow", "warn dead"]);
  assert.match(found(before, after)[1].text, /^1 client read too slowly .* was closed/);
});

test("what is wrong is read aloud once, though its text changes each second", () => {
  const news = new News();
  const silent = (ms) => found(fleet({ replicas: [replica({ seen_ms_ago: ms })] }));
  assert.match(news.of(silent(6_000)), /^Replica g-1 was last heard 6 s ago/);
  assert.equal(news.of(silent(7_000)), "");
  const both = [...silent(8_000), { level: "bad", where: "redis", text: "Redis is away." }];
  assert.equal(news.of(both), "Redis is away.");
  assert.equal(news.of(silent(9_000)), "");
  assert.equal(news.of([]), "All is well again.");
  assert.equal(news.of([]), "");
});

test("figures are readable", () => {
  assert.deepEqual([0, 1.25, 12.6, 1234].map(number), ["0", "1.3", "13", "1,234"]);
  assert.deepEqual([0, 1023, 1024, 1.5 * 1024 ** 2, 5 * 1024 ** 4].map(bytes), ["0 B", "1,023 B", "1 KiB", "1.5 MiB", "5,120 GiB"].map((text, place) => (place === 1 ? "1023 B" : text)));
  assert.deepEqual([200, 9_400].map(ago), ["a second ago", "9 s ago"]);
});
