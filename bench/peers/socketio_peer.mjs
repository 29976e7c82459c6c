// Socket.IO with its Redis adapter, WebSocket only: node bench/peers/socketio_peer.mjs PORT REDIS_URL
import { createRequire } from "node:module";
import { createServer } from "node:http";

const require = createRequire(new URL("../../.cache/node/package.json", import.meta.url));
const { Server } = require("socket.io");
const { createAdapter } = require("@socket.io/redis-adapter");
const { createClient } = require("redis");

const clients = [1, 2].map(() => createClient({ url: process.argv[3] }));
await Promise.all(clients.map((client) => client.connect()));
const http = createServer();
new Server(http, { transports: ["websocket"], adapter: createAdapter(...clients), perMessageDeflate: false });
http.listen({ port: Number(process.argv[2]), host: "127.0.0.1", backlog: 4096 });
