// What the demo's clients got.

import assert from "node:assert/strict";
import test from "node:test";

import { Tally } from "../../gateway/console/tally.js";

const event = (id, more = {}) => ({ id, type: "risk_alert", user: "ann", ts: 1_000, isShown: true, ...more });

test("an event is whole when all who should have it do", () => {
  const tally = new Tally();
  tally.took("a", event("t/0/1"), 2, 1_005);
  assert.deepEqual(tally.newest.map(({ got, expected, last_ms }) => [got, expected, last_ms]), [[1, 2, 5]]);
  tally.took("b", event("t/0/1"), 2, 1_009);
  assert.deepEqual(tally.newest.map(({ got, last_ms }) => [got, last_ms]), [[2, 9]]);
  assert.deepEqual([tally.received, tally.doubled, tally.disordered, tally.gaps], [2, 0, 0, 0]);
});

test("one that comes twice, or behind a later one, is counted", () => {
  const tally = new Tally();
  tally.took("a", event("t/0/9"), 1, 1_000);
  tally.took("a", event("t/0/10"), 1, 1_000);
  tally.took("a", event("t/0/10"), 1, 1_000);
  assert.deepEqual([tally.doubled, tally.disordered], [1, 0]);
  tally.took("a", event("t/0/8"), 1, 1_000);
  assert.deepEqual([tally.doubled, tally.disordered], [1, 1]);
  tally.took("a", event("t/1/1"), 1, 1_000); // another partition, another order
  tally.took("b", event("t/0/1"), 1, 1_000); // another client
  assert.deepEqual([tally.doubled, tally.disordered], [1, 1]);
});

test("a client that left begins anew", () => {
  const tally = new Tally();
  tally.took("a", event("t/0/9"), 1, 1_000);
  tally.left("a");
  tally.took("a", event("t/0/3"), 1, 1_000);
  assert.equal(tally.disordered, 0);
});

test("only what is to be shown is", () => {
  const tally = new Tally();
  tally.took("a", event("t/0/1", { isShown: false }), 1, 1_000);
  tally.took("a", event("t/0/2"), 1, 1_000);
  assert.deepEqual([tally.received, tally.newest.map(({ id }) => id)], [2, ["t/0/2"]]);
});

test("memory is bounded", () => {
  const tally = new Tally();
  for (let offset = 0; offset < 20_000; offset += 1) tally.took("a", event(`t/0/${offset}`), 1, 1_000);
  assert.equal(tally.newest.length, 8);
  assert.equal(tally.newest[0].id, "t/0/19999");
  tally.took("a", event("t/0/19999"), 1, 1_000);
  assert.equal(tally.doubled, 1);
});
