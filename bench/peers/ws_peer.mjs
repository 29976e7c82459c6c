// Node's `ws` with the redis package: node bench/peers/ws_peer.mjs PORT REDIS_URL
// A client of /ws?user_id=<id> has the messages of the channel user:<id>, too.
import { createRequire } from "node:module";

const require = createRequire(new URL("../../.cache/node/package.json", import.meta.url));
const { WebSocketServer } = require("ws");
const { createClient } = require("redis");

const server = new WebSocketServer({ port: Number(process.argv[2]), host: "127.0.0.1", perMessageDeflate: false, backlog: 4096 });
const redis = await createClient({ url: process.argv[3] }).connect();
await redis.subscribe("bench", (text) => {
  for (const client of server.clients) client.send(text);
});
server.on("connection", (client, request) => {
  const user = new URL(request.url, "http://localhost").searchParams.get("user_id");
  if (user === null) return;
  const forward = (text) => client.send(text);
  redis.subscribe(`user:${user}`, forward);
  client.on("close", () => redis.unsubscribe(`user:${user}`, forward));
});
