// Node's `ws` with the redis package: node bench/peers/ws_peer.mjs PORT REDIS_URL
import { createRequire } from "node:module";

const require = createRequire(new URL("../../.cache/node/package.json", import.meta.url));
const { WebSocketServer } = require("ws");
const { createClient } = require("redis");

const server = new WebSocketServer({ port: Number(process.argv[2]), host: "127.0.0.1", perMessageDeflate: false, backlog: 4096 });
const redis = await createClient({ url: process.argv[3] }).connect();
await redis.subscribe("bench", (text) => {
  for (const client of server.clients) client.send(text);
});
