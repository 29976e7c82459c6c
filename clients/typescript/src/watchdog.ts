// Is the connection still there?

const OPEN_MS = 15_000;
const PONG_MS = 5_000;
const PINGS = 2;
const HEARTBEAT_MS = 15_000;

export interface Watchdog {
  /** It is open; the server says something each `heartbeatMs`. */
  watch(heartbeatMs: unknown): void;
  /** Something came. */
  heard(): void;
  /** Ask now, since something happened to the network or the page. */
  probe(): void;
  stop(): void;
}

/** Gives a connection up that does not open, or that two pings in a row bring nothing from.
 *
 * Two, and no clock: a timer that was due while the machine slept, or while a hidden tab's timers were held back,
 * fires at once afterwards, before what arrived meanwhile is heard. The second ping has its whole time again. */
export const createWatchdog = (ping: () => void, giveUp: () => void): Watchdog => {
  let quietMs = 0;
  let unanswered = 0;
  let timer = setTimeout(giveUp, OPEN_MS);

  const askIn = (ms: number) => {
    clearTimeout(timer);
    timer = setTimeout(ask, ms);
  };
  const ask = () => {
    if (unanswered++ < PINGS) {
      askIn(PONG_MS);
      ping();
    } else giveUp();
  };
  const heard = () => {
    unanswered = 0;
    if (quietMs) askIn(quietMs);
  };

  return {
    watch(heartbeatMs) {
      quietMs = 1.5 * (Math.min(Math.max(Number(heartbeatMs), 1_000), 600_000) || HEARTBEAT_MS);
      heard();
    },
    heard,
    probe: () => {
      if (quietMs && !unanswered) ask();
    },
    stop: () => clearTimeout(timer),
  };
};
