// Server-sent events through `fetch`, for where WebSockets do not get through.

import { createEventStreamParser, createTranslator, type Block } from "./event-stream.js";
import type { Transport } from "./types.js";

/** The longest that the service may be set to between two signs of life. */
const HEARTBEAT_MS = 60_000;
/** After that a WebSocket is tried again. */
const BETTER_MS = 300_000;
/** What a client waits that is not to come again. */
const NEVER_MS = 86_400_000;

export interface EventStreamOptions {
  /** `include` sends the service's cookie (`AUTH_COOKIE`) to another origin, too. */
  credentials?: RequestCredentials;
  /** Where the service's event streams are, beside its `/ws`. */
  path?: string;
}

/** A `fallback` of `createClient`. A page may have six connections of HTTP/1.1 to one origin, this one included.
 * Nothing can be sent: no acks, and a fresh token is brought by another connection. */
export const serverSentEvents =
  ({ credentials = "same-origin", path = "/events" }: EventStreamOptions = {}): Transport =>
  (url, token, on) => {
    const ended = new AbortController();
    let heardAt = Date.now();
    let better: ReturnType<typeof setTimeout> | undefined;

    const address = new URL(url.replace(/^ws/, "http"));
    address.pathname = address.pathname.replace(/\/ws$/, path);

    const read = async (): Promise<[code: number, reason: string]> => {
      const response = await fetch(address, {
        headers: { Accept: "text/event-stream", ...(token && { Authorization: "Bearer " + token }) },
        credentials,
        cache: "no-store",
        signal: ended.signal,
      });
      if (!response.ok || !response.body) return refusal(response.status, await response.text());
      const parse = createEventStreamParser();
      const translate = createTranslator(HEARTBEAT_MS);
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let isOpen = false;
      let retryMs = 0;
      let lastWords = "";
      const take = (block: Block) => {
        if (block.retryMs >= 0) retryMs = block.retryMs;
        const frame = translate(block);
        if (!frame) return;
        const { control, code } = block.event == "control" ? JSON.parse(frame) : { control: "", code: "" };
        if (control == "error" && code != "token_expired") {
          lastWords = code;
          return;
        }
        if (!isOpen && !control) {
          isOpen = true;
          better = setTimeout(() => on.message('{"control":"going_away","better":true}'), BETTER_MS);
        }
        on.message(frame);
      };
      for (let part; !(part = await reader.read()).done; ) {
        heardAt = Date.now();
        parse(part.value).forEach(take);
      }
      if (retryMs >= NEVER_MS) return [4500, lastWords];
      // `retry` speaks of this stream's end only where it was refused.
      return [1006, isOpen || !lastWords ? lastWords : `${lastWords} retry_after_ms=${retryMs}`];
    };

    read()
      .catch((): [number, string] => [1006, ""])
      .then(([code, reason]) => {
        clearTimeout(better);
        on.close(code, reason);
      });

    return {
      // Who pings asks whether the connection lives. What came lately says so.
      send: (text) => {
        if (text != '{"control":"ping"}') return false;
        if (Date.now() - heardAt < 1.5 * HEARTBEAT_MS) on.message('{"control":"pong"}');
        return true;
      },
      close: () => {
        clearTimeout(better);
        ended.abort();
      },
    };
  };

/** What the status and the JSON body of a refusal are as a close. Only the service's own refusals are for good: a
 * proxy's are not its word. */
const refusal = (status: number, body: string): [code: number, reason: string] => {
  try {
    const { error, message } = JSON.parse(body);
    if (error && (status == 400 || status == 401 || status == 403)) return [4500, `${error}: ${message}`];
  } catch {
    // Somebody else's.
  }
  return [1006, `status ${status}`];
};
