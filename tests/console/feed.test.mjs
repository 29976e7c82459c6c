// How the feed is followed.

import assert from "node:assert/strict";
import test, { mock } from "node:test";

import { follow } from "../../gateway/console/feed.js";

/** @type {FakeSource[]} */
let opened = [];

class FakeSource extends EventTarget {
  isOpen = true;
  constructor() {
    super();
    opened.push(this);
  }
  close() {
    this.isOpen = false;
  }
  says(fleet) {
    this.dispatchEvent(Object.assign(new Event("fleet"), { data: JSON.stringify(fleet) }));
  }
}

test.beforeEach(() => {
  opened = [];
  globalThis.EventSource = FakeSource;
  mock.timers.enable({ apis: ["setTimeout"] });
});
test.afterEach(() => mock.timers.reset());

function followed() {
  const heard = [];
  follow((fleet) => heard.push(fleet.at_ms), (isLost) => heard.push(isLost ? "lost" : "back"));
  return heard;
}

test("what is said is handed on, and nobody asks anew", () => {
  const heard = followed();
  for (let second = 0; second < 60; second += 1) {
    opened[0].says({ at_ms: second });
    mock.timers.tick(1_000);
  }
  assert.deepEqual(heard, Array.from({ length: 60 }, (_, second) => second));
  assert.equal(opened.length, 1);
});

test("a connection that is silent is given up, again and again until one speaks", () => {
  const heard = followed();
  opened[0].says({ at_ms: 1 });
  mock.timers.tick(10_000);
  assert.deepEqual([heard, opened.map(({ isOpen }) => isOpen)], [[1, "lost"], [false, true]]);
  mock.timers.tick(10_000);
  assert.deepEqual([heard, opened.map(({ isOpen }) => isOpen)], [[1, "lost"], [false, false, true]]);
  opened[2].says({ at_ms: 2 });
  assert.deepEqual(heard, [1, "lost", "back", 2]);
});

test("one that never speaks is lost, too", () => {
  const heard = followed();
  mock.timers.tick(9_999);
  assert.deepEqual(heard, []);
  mock.timers.tick(1);
  assert.deepEqual(heard, ["lost"]);
});
