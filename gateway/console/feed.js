// Reads the console's feed, and says when it is lost.

/** @typedef {import("./minute.js").Fleet} Fleet */

const LOST_MS = 5_000;

/**
 * Follow the feed for as long as the page lives. EventSource asks again by itself: an answer lasts 25 s.
 * @param {(fleet: Fleet) => void} onFleet
 * @param {(isLost: boolean) => void} onLost
 */
export function follow(onFleet, onLost) {
  let source = open();
  let heardAt = performance.now();
  let isLost = false;

  function open() {
    const source = new EventSource("feed");
    source.addEventListener("fleet", (event) => {
      heardAt = performance.now();
      if (isLost) onLost((isLost = false));
      onFleet(JSON.parse(event.data));
    });
    return source;
  }

  setInterval(() => {
    if (performance.now() - heardAt < LOST_MS) return;
    if (!isLost) onLost((isLost = true));
    if (source.readyState === EventSource.CLOSED) source = open(); // it gives up on any status but 200
  }, 1_000);
}
