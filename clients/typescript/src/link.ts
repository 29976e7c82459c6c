// One connection, from the token that it needs to its end.

import type { Transport, Wire } from "./types.js";
import { createWatchdog } from "./watchdog.js";

/** A frame of notify.v1, as far as anything is sure: an object. */
export type Frame = Record<string, any>;

export interface Link {
  /** What it was opened with. */
  token?: string | undefined;
  send(message: unknown): boolean;
  /** See Watchdog.watch. */
  watch(heartbeatMs: unknown): void;
  /** See Watchdog.probe. */
  probe(): void;
  /** End it; nothing is heard of it any more. */
  close(): void;
}

interface Hears {
  frame(link: Link, frame: Frame): void;
  /** Once, unless it was closed here. 1006 when it ended without a word. */
  end(link: Link, code: number, reason: string): void;
  error(error: unknown): void;
}

/** What may stand in a subprotocol (RFC 9110 section 5.6.2). */
const SENDABLE = /^[\w.~+!#$%&'*^`|-]+$/;

/** `address` is asked as late as can be, since it says where to resume. Nothing is called before this returns. */
export const openLink = (
  transport: Transport,
  token: (() => Promise<string> | string) | undefined,
  address: () => string,
  hears: Hears,
): Link => {
  let wire: Wire | undefined;
  let isOver = false;

  const send = (message: unknown) => !isOver && !!wire?.send(JSON.stringify(message));
  const close = () => {
    isOver = true;
    watchdog.stop();
    wire?.close();
  };
  const end = (code = 1006, reason = "") => {
    if (isOver) return;
    close();
    hears.end(link, code, reason);
  };
  const watchdog = createWatchdog(() => send({ control: "ping" }), () => end());

  const message = (text: string) => {
    if (isOver) return;
    watchdog.heard();
    try {
      const frame: Frame = JSON.parse(text);
      if (!frame.control && !frame.type) throw new Error("Not a message: " + text.slice(0, 80));
      hears.frame(link, frame);
    } catch (thrown) {
      hears.error(thrown);
    }
  };

  const link: Link = { send, watch: watchdog.watch, probe: watchdog.probe, close };

  (async () => {
    await null; // whoever opens it knows it before anything is heard of it
    try {
      link.token = await token?.();
      // A browser that is given another repeats it in its error.
      if (token && !SENDABLE.test(link.token ?? "")) throw new Error("token() gave none that can be sent");
      if (!isOver) wire = transport(address(), link.token, { message, close: end });
    } catch (error) {
      hears.error(error);
      end();
    }
  })();
  return link;
};
