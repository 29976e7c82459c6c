// What the demo's clients got.

import assert from "node:assert/strict";
import test from "node:test";

import { gotOf, Tally } from "../../gateway/console/tally.js";

const event = (id, seq, more = {}) => ({ id, stream: "user", epoch: "e", seq, ts: 1_000, ...more });
const faults = ({ gaps, doubled, disordered }) => ({ gaps, doubled, disordered });
const NONE = { gaps: 0, doubled: 0, disordered: 0 };

test("an event that was sent is shown at once, with who has it and who waits", () => {
  const tally = new Tally();
  tally.sent({ id: "t/0/1", type: "risk_alert", user: "ann" }, ["a", "b"], 1_001);
  const shown = () => tally.newest.map((sent) => [gotOf(sent), sent.owed.size, sent.last_ms]);
  assert.deepEqual(shown(), [[0, 2, null]]);
  tally.took("a", event("t/0/1", 1), 1_005);
  assert.deepEqual(shown(), [[1, 2, 5]]);
  tally.took("b", event("t/0/1", 1), 1_009);
  assert.deepEqual(shown(), [[2, 2, 9]]);
  assert.deepEqual([tally.received, faults(tally)], [2, NONE]);
});

test("some may have it before whoever sent it knows its id", () => {
  const tally = new Tally();
  tally.took("a", event("t/0/1", 1), 1_005);
  tally.sent({ id: "t/0/1", type: "risk_alert", user: "ann" }, ["a", "b"], 1_006);
  assert.deepEqual(tally.newest.map((sent) => [gotOf(sent), sent.last_ms]), [[1, 5]]);
});

test("one who came later may get it and is not waited for; one who left is not, either", () => {
  const tally = new Tally();
  tally.sent({ id: "t/0/1", type: "market_alert", user: null }, ["a", "b"], 1_001);
  tally.took("late", event("t/0/1", 1), 1_005);
  tally.took("a", event("t/0/1", 1), 1_005);
  const [sent] = tally.newest;
  assert.deepEqual([gotOf(sent), sent.owed.size, sent.got.size], [1, 2, 2]);
  tally.left("b");
  tally.left("a");
  assert.deepEqual([gotOf(sent), sent.owed.size], [1, 1]);
});

test("one that comes twice, or behind a later one, is counted", () => {
  const tally = new Tally();
  tally.took("a", event("t/0/9", 1), 1_000);
  tally.took("a", event("t/0/10", 2), 1_000);
  tally.took("a", event("t/0/10", 2), 1_000);
  assert.deepEqual(faults(tally), { ...NONE, doubled: 1 });
  tally.took("a", event("t/0/8", 2), 1_000);
  assert.deepEqual(faults(tally), { ...NONE, doubled: 1, disordered: 1 });
  tally.took("a", event("t/1/1", 3), 1_000); // another partition, another order
  tally.took("b", event("t/0/1", 1), 1_000); // another client
  assert.deepEqual(faults(tally), { ...NONE, doubled: 1, disordered: 1 });
});

test("what is missing is counted though nobody says so", () => {
  const tally = new Tally();
  tally.took("a", event("t/0/1", 5), 1_000);
  tally.took("a", event("t/0/2", 6), 1_000);
  assert.equal(tally.gaps, 0, "where it begins is no gap");
  tally.took("a", event("t/0/5", 9), 1_000);
  assert.equal(tally.gaps, 2);
  tally.took("a", event("t/1/1", 1, { stream: "global" }), 1_000);
  tally.took("b", event("t/0/9", 13), 1_000);
  tally.took("a", event("t/0/6", 100, { epoch: "f" }), 1_000);
  assert.equal(tally.gaps, 2, "another stream, client or epoch is counted for itself");
  tally.missed();
  assert.equal(tally.gaps, 3);
});

test("a client that left begins anew", () => {
  const tally = new Tally();
  tally.took("a", event("t/0/9", 9), 1_000);
  tally.left("a");
  tally.took("a", event("t/0/3", 20), 1_000);
  assert.deepEqual(faults(tally), NONE);
});

test("memory is bounded", () => {
  const tally = new Tally();
  for (let offset = 0; offset < 20_000; offset += 1) {
    tally.took("a", event(`t/0/${offset}`, offset), 1_000);
    if (offset % 1_000 === 0) tally.sent({ id: `t/0/${offset}`, type: "risk_alert", user: "ann" }, ["a"], 1_000);
  }
  assert.deepEqual([tally.newest.length, tally.newest[0].id], [5, "t/0/19000"]);
  tally.took("a", event("t/0/19999", 19_999), 1_000);
  assert.deepEqual(faults(tally), { ...NONE, doubled: 1 });
});
