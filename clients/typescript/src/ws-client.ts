import { createClient } from "./client.js";

const DEFAULT_URL = "ws://localhost:8000/ws";

/** The platform's client: one for a page, to `NEXT_PUBLIC_WS_URL`. */
export const wsClient = /* @__PURE__ */ createClient({
  url: () => {
    try {
      // Word for word: a bundler puts the address here.
      return process.env.NEXT_PUBLIC_WS_URL || DEFAULT_URL;
    } catch {
      return DEFAULT_URL; // no bundler, no process
    }
  },
});
