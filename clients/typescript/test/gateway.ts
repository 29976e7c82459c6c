// A server that answers as a test tells it to: WebSockets, event streams, pages.

import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { WebSocketServer, type WebSocket } from "ws";
import { at } from "./world.js";

export interface Visit {
  socket: WebSocket;
  query: Record<string, string>;
  protocols: string[];
  said: unknown[];
}

/** Welcomes everyone, until it is told otherwise. */
export class Gateway {
  visits: Visit[] = [];
  /** WebSockets that were not let in. */
  refused = 0;
  /** What is done with a WebSocket; undefined refuses it with a 404. */
  welcomes: ((visit: Visit) => void) | undefined = (visit) => send(visit, welcome());
  /** What is done with a request for /events. */
  events: (request: IncomingMessage, response: ServerResponse) => void = (_, response) => response.writeHead(404).end();
  /** Paths and what they give. */
  files: Record<string, [type: string, body: string]> = {};
  private readonly sockets = new WebSocketServer({ noServer: true, handleProtocols: () => "notify.v1" });

  private constructor(private readonly server: Server) {}

  static async start(): Promise<Gateway> {
    const server = createServer();
    const gateway = new Gateway(server);
    server.on("request", (request: IncomingMessage, response: ServerResponse) => {
      const path = new URL(request.url!, "http://x").pathname;
      if (path === "/events") return gateway.events(request, response);
      const file = gateway.files[path];
      if (!file) return response.writeHead(404).end();
      return response.writeHead(200, { "Content-Type": file[0] }).end(file[1]);
    });
    server.on("upgrade", (request, stream, head) => {
      const { welcomes } = gateway;
      if (!welcomes) {
        gateway.refused++;
        return stream.end("HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n");
      }
      return gateway.sockets.handleUpgrade(request, stream, head, (socket) => {
        const visit: Visit = {
          socket,
          query: Object.fromEntries(new URL(request.url!, "http://x").searchParams),
          protocols: request.headers["sec-websocket-protocol"]!.split(/, ?/),
          said: [],
        };
        socket.on("message", (text) => {
          const said = JSON.parse(String(text));
          visit.said.push(said);
          if (said.control === "ping") send(visit, { control: "pong" });
        });
        gateway.visits.push(visit);
        welcomes(visit);
      });
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return gateway;
  }

  get port(): number {
    return (this.server.address() as AddressInfo).port;
  }
  get url(): string {
    return `ws://127.0.0.1:${this.port}/ws`;
  }
  /** Those that are still there. */
  get open(): Visit[] {
    return this.visits.filter(({ socket }) => socket.readyState === 1);
  }
  async stop(): Promise<void> {
    for (const { socket } of this.visits) socket.terminate();
    this.server.closeAllConnections();
    await new Promise((resolve) => this.server.close(resolve));
  }
}

export const send = ({ socket }: Visit, frame: unknown): void =>
  socket.send(typeof frame === "string" ? frame : JSON.stringify(frame));

export const welcome = (more: object = {}) => ({
  control: "welcome",
  ...at(0, 0),
  heartbeat_ms: 15_000,
  recovered: false,
  replayed: 0,
  ...more,
});
