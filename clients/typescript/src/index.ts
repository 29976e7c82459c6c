export { createClient } from "./client.js";
export { wsClient } from "./ws-client.js";
export type * from "./types.js";
