// @ts-check
// Reads the console's feed, and says when it is lost.

/** @typedef {import("./minute.js").Fleet} Fleet */

const LOST_MS = 10_000; // longer than a replica waits for Redis before it says that it does not answer

/**
 * Follow the feed for as long as the page lives. EventSource asks again by itself: an answer lasts 25 s. It does not
 * after any status but 200, nor notices a connection that is dead without a word (a laptop that slept): whenever
 * nothing came for a while it is opened anew.
 * @param {(fleet: Fleet) => void} onFleet
 * @param {(isLost: boolean) => void} onLost
 */
export function follow(onFleet, onLost) {
  let isLost = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let losing;
  let source = open();

  function open() {
    clearTimeout(losing);
    losing = setTimeout(lose, LOST_MS);
    const source = new EventSource("feed");
    source.addEventListener("fleet", (event) => {
      clearTimeout(losing);
      losing = setTimeout(lose, LOST_MS);
      if (isLost) onLost((isLost = false));
      onFleet(JSON.parse(event.data));
    });
    return source;
  }

  function lose() {
    if (!isLost) onLost((isLost = true));
    source.close();
    source = open();
  }
}
