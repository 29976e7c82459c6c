// A page without a browser: its sockets, its window's events, its time. Nothing here waits.

import { vi } from "vitest";
import { createClient } from "../src/client.js";
import type { Client, ClientOptions, Gap, Message, State } from "../src/types.js";

export class FakeSocket {
  static all: FakeSocket[] = [];
  /** Whether pings are answered. */
  static answers = false;
  readyState = 0;
  said: unknown[] = [];
  onmessage: (event: { data: unknown }) => void = () => {};
  onclose: (event: { code: number; reason: string }) => void = () => {};

  constructor(
    readonly url: string,
    readonly protocols: string[],
  ) {
    // As browsers say it: with the token.
    const invalid = protocols.find((protocol) => /[^!-~]|[/=@]/.test(protocol));
    if (invalid) throw new SyntaxError(`Failed to construct 'WebSocket': The subprotocol '${invalid}' is invalid.`);
    FakeSocket.all.push(this);
  }

  get query(): Record<string, string> {
    return Object.fromEntries(new URL(this.url).searchParams);
  }
  send(text: string): void {
    if (this.readyState === 0) throw new Error("still connecting");
    const said = JSON.parse(text);
    this.said.push(said);
    if (FakeSocket.answers && said.control === "ping") this.frame({ control: "pong" });
  }
  /** By the client. */
  close(): void {
    this.readyState = 3;
  }

  // What the server does

  frame(frame: unknown): void {
    this.onmessage({ data: typeof frame === "string" ? frame : JSON.stringify(frame) });
  }
  welcome(place: Partial<ReturnType<typeof at>> = {}, more: object = {}): this {
    this.readyState = 1;
    this.frame({ control: "welcome", ...at(0, 0), ...place, heartbeat_ms: 15_000, recovered: false, replayed: 0, ...more });
    return this;
  }
  end(code = 1006, reason = ""): void {
    this.readyState = 3;
    this.onclose({ code, reason });
  }
}

export const at = (global: number, user: number, epoch = "a") => ({
  global: { epoch, seq: global },
  user: { epoch, seq: user },
});

/** An event of the user's stream, by default at the offset that its seq has. */
export const order = (seq: number, more: object = {}) => ({
  type: "order_executed",
  data: { order_id: `${seq}` },
  id: `execution-events/0/${seq}`,
  stream: "user",
  epoch: "a",
  seq,
  ts: 1,
  ...more,
});

export interface World {
  client: Client;
  states: [State, string][];
  gaps: Gap[];
  errors: unknown[];
  messages: Message[];
  /** The orders that it handed over, by their ids. */
  orders(): string[];
  /** The newest. */
  socket(): FakeSocket;
  sockets(): FakeSocket[];
  window: EventTarget;
}

/** Let what was promised happen. */
export const settle = () => vi.advanceTimersByTimeAsync(0);
/** A while passes. */
export const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms);

/** A page in which `Math.random` is always `random`: the longest pauses with 1. */
export const createWorld = (options: Partial<ClientOptions> = {}, random = 1): World => {
  vi.useFakeTimers();
  vi.spyOn(Math, "random").mockReturnValue(random);
  FakeSocket.all = [];
  FakeSocket.answers = false;
  vi.stubGlobal("WebSocket", FakeSocket);
  const window = new EventTarget();
  vi.stubGlobal("addEventListener", window.addEventListener.bind(window));
  vi.stubGlobal("removeEventListener", window.removeEventListener.bind(window));
  const client = createClient({ url: "wss://gateway.example/ws", ...options });
  const world: World = {
    client,
    states: [],
    gaps: [],
    errors: [],
    messages: [],
    orders: () => world.messages.map((message) => (message.data as { order_id: string }).order_id),
    socket: () => FakeSocket.all.at(-1)!,
    sockets: () => FakeSocket.all,
    window,
  };
  client.on("state", (...state) => world.states.push(state));
  client.on("gap", (gap) => world.gaps.push(gap));
  client.on("error", (error) => world.errors.push(error));
  client.subscribe("*", (message) => world.messages.push(message));
  return world;
};

/** A world whose client is connected and welcomed. */
export const connected = async (options: Partial<ClientOptions> = {}, random = 1): Promise<World> => {
  const world = createWorld(options, random);
  world.client.connect("ann");
  await settle();
  world.socket().welcome();
  return world;
};

/** An unsigned JWT that ends in so many seconds. */
export const jwt = (seconds: number, more: object = {}): string => {
  const part = (content: object) => Buffer.from(JSON.stringify(content)).toString("base64url");
  return [part({ alg: "none" }), part({ sub: "ann", exp: Date.now() / 1000 + seconds, ...more }), "sig"].join(".");
};

export const memoryStorage = (content: Record<string, string> = {}) => ({
  content,
  getItem: (key: string) => content[key] ?? null,
  setItem: (key: string, value: string) => void (content[key] = value),
  removeItem: (key: string) => void delete content[key],
});
