// When to try again.

const MIN_MS = 500;
export const MAX_MS = 20_000;

/** Full jitter: anywhere below a ceiling that doubles with each attempt after the first, so that a crowd spreads.
 * `attempts`: how many in a row brought no connection that lasted. */
export const backoffMs = (attempts: number): number =>
  Math.random() * Math.min(MAX_MS, MIN_MS * 2 ** Math.max(attempts - 1, 0));

/** How long the server asks to be left alone, from the reason of a close (`unavailable retry_after_ms=1200`) or from
 * a number in a frame. At most ten minutes, whoever says what. */
export const retryAfterMs = (said: unknown): number =>
  Math.min(Number(/\d+$/.exec(String(said))) || 0, 600_000);
