// What follows from a minute of the feed.

import assert from "node:assert/strict";
import test from "node:test";

import { Minute, quantile } from "../../gateway/console/minute.js";

const replicas = (fleet) => fleet.replicas;
const count = (replica) => replica.deliveries.a;

/** A fleet of replicas given as name: [deliveries, started]. */
function fleet(at_ms, of) {
  return {
    at_ms,
    relays: [],
    replicas: Object.entries(of).map(([name, [a, started_ms = 0]]) => ({ name, started_ms, deliveries: { a } })),
  };
}

function minuteOf(...fleets) {
  const minute = new Minute();
  for (const one of fleets) minute.add(one);
  return minute;
}

test("a count rises over all processes", () => {
  const minute = minuteOf(fleet(0, { x: [10], y: [1] }), fleet(1_000, { x: [15], y: [1] }), fleet(2_000, { x: [15], y: [4] }));
  assert.equal(minute.rise(replicas, count), 8);
  assert.equal(minute.rate(replicas, count), 4);
  assert.deepEqual(minute.series(replicas, count).map((one) => one.rate), [5, 3]);
});

test("one look alone says nothing", () => {
  const minute = minuteOf(fleet(0, { x: [10] }));
  assert.equal(minute.rise(replicas, count), 0);
  assert.equal(minute.rate(replicas, count), 0);
  assert.deepEqual(minute.series(replicas, count), []);
  assert.equal(new Minute().rise(replicas, count), 0);
});

test("a process that was started again begins at zero, and nothing is ever negative", () => {
  const minute = minuteOf(fleet(10_000, { x: [100, 1] }), fleet(11_000, { x: [7, 10_500] }), fleet(12_000, { x: [3, 10_500] }));
  assert.equal(minute.rise(replicas, count), 7);
});

test("a process that was only not heard for a while is not counted from its start", () => {
  const minute = minuteOf(fleet(10_000, {}), fleet(11_000, { x: [1_000, 1] }), fleet(12_000, { x: [1_005, 1] }));
  assert.equal(minute.rise(replicas, count), 5);
});

test("what is older than a minute is forgotten", () => {
  const minute = minuteOf(...Array.from({ length: 100 }, (_, second) => fleet(1_000 * second, { x: [second] })));
  assert.equal(minute.fleets.length, 61);
  assert.equal(minute.rise(replicas, count), 60);
});

test("a clock that goes back begins a new minute", () => {
  const minute = minuteOf(fleet(9_000, { x: [1] }), fleet(10_000, { x: [2] }), fleet(5_000, { x: [3] }));
  assert.equal(minute.fleets.length, 1);
});

test("what a process does not count is zero", () => {
  const minute = minuteOf(fleet(0, { x: [1] }), fleet(1_000, { x: [2] }));
  assert.equal(minute.rise(replicas, (replica) => replica.deliveries.none), 0);
});

test("a quantile lies within its class", () => {
  const bounds = [1, 2, 5];
  assert.equal(quantile([0, 0, 0, 0], bounds, 0.5), null);
  assert.equal(quantile([4, 0, 0, 0], bounds, 0.5), 0.5);
  assert.equal(quantile([1, 0, 1, 0], bounds, 0.5), 1);
  assert.equal(quantile([0, 0, 10, 0], bounds, 0.99), 2 + 0.99 * 3);
  assert.equal(quantile([0, 0, 0, 3], bounds, 0.5), 5);
  assert.equal(quantile([1, 0, 0, 99], bounds, 0.99), 5);
});
