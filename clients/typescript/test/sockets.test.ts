// The package as it is built, over real sockets.

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { WebSocket } from "ws";
import { createClient, wsClient, type Client, type Message } from "@bloasis/notify";
import { IMPORTS, sizeOf } from "../scripts/sizes.mjs";
import { Gateway, send, welcome } from "./gateway.js";
import { order } from "./world.js";

let gateway: Gateway;
let client: Client | undefined;
const ids: (string | undefined)[] = [];
const errors: unknown[] = [];

const connect = (options: Parameters<typeof createClient>[0]): Client => {
  client = createClient(options);
  client.subscribe("*", (message: Message) => ids.push(message.id));
  client.on("error", (error) => errors.push(error));
  client.connect("ann");
  return client;
};

beforeEach(async () => {
  gateway = await Gateway.start();
  ids.length = errors.length = 0;
});

afterEach(async () => {
  client?.disconnect();
  client = undefined;
  wsClient.disconnect();
  await gateway.stop();
});

const until = (what: () => unknown) => vi.waitFor(() => expect(what()).toBeTruthy(), { timeout: 20_000 });

describe("over real sockets", () => {
  beforeEach(() => {
    vi.stubGlobal("WebSocket", WebSocket);
  });

  test("the platform's own code", async () => {
    vi.stubEnv("NEXT_PUBLIC_WS_URL", gateway.url);
    const regimes: string[] = [];
    const messages: Message[] = [];
    wsClient.connect("user-123");
    const ends = wsClient.subscribe("regime_change", (data) => regimes.push(data.new_regime));
    wsClient.subscribe("*", (message) => messages.push(message));
    await until(() => gateway.open.length);
    const [visit] = gateway.visits;
    const change = (seq: number) => ({
      type: "regime_change", data: { new_regime: "bull" }, id: `regime-events/0/${seq}`, stream: "global", epoch: "a", seq, ts: 1,
    });
    send(visit!, change(1));
    await until(() => messages.length === 1);
    ends();
    send(visit!, change(2));
    await until(() => messages.length === 2);
    expect(regimes).toEqual(["bull"]);
    expect(visit!.query).toEqual({ user_id: "user-123" });
    wsClient.send({ control: "ping" });
    await until(() => visit!.said.length);
    wsClient.disconnect();
    await until(() => !gateway.open.length);
  });

  test("a connection that is cut is made again, from where it was", async () => {
    connect({ url: gateway.url });
    await until(() => gateway.open.length);
    send(gateway.visits[0]!, order(1));
    await until(() => ids.length);
    gateway.visits[0]!.socket.terminate();
    await until(() => gateway.visits.length === 2);
    expect(gateway.visits[1]!.query.cursor).toBe("a.0.a.1");
  });

  test("a server that answers 404 is tried again, slower and slower, until it does not", async () => {
    gateway.welcomes = undefined;
    connect({ url: gateway.url });
    await until(() => gateway.refused >= 3);
    expect(client!.state).toBe("connecting");
    gateway.welcomes = (visit) => send(visit, welcome());
    await until(() => client!.state === "open");
  });

  test("what is not JSON is passed over", async () => {
    gateway.welcomes = (visit) => {
      for (const frame of [welcome(), "not JSON", "null", order(1)]) send(visit, frame);
      visit.socket.send(Buffer.from([1, 2, 3]));
      send(visit, order(2));
    };
    connect({ url: gateway.url });
    await until(() => ids.length === 2);
    expect(errors).toHaveLength(3);
  });

  test("a token goes as a subprotocol, and a refusal ends it with its reason", async () => {
    gateway.welcomes = ({ socket }) => socket.close(4500, "unauthorized: The token has expired.");
    const states: string[] = [];
    connect({ url: gateway.url, token: () => "secret" }).on("state", (...state) => states.push(state.join(" ")));
    await until(() => client!.state === "closed");
    expect(states).toEqual(["closed unauthorized: The token has expired."]);
    expect(gateway.visits[0]!.protocols).toEqual(["notify.v1", "bearer.secret"]);
  });

  test("going away without end costs no event and no crowd of connections", async () => {
    let seq = 0;
    gateway.welcomes = (visit) => {
      send(visit, welcome());
      // Also what the one before it had brought.
      for (const known of [seq, ++seq]) if (known) send(visit, order(known));
      send(visit, { control: "going_away", retry_after_ms: 0 });
    };
    connect({ url: gateway.url });
    await until(() => seq >= 4);
    await until(() => ids.length === seq);
    expect(ids).toEqual(ids.map((_, number) => `execution-events/0/${number + 1}`));
    expect(gateway.open.length).toBeLessThanOrEqual(2);
  });
});

describe("the package", () => {
  test("is loaded by import and by require, without a window and without a WebSocket", async () => {
    const require = createRequire(import.meta.url);
    for (const entry of ["", "/sse", "/tabs", "/react"]) {
      const [esm, cjs] = [await import(`@bloasis/notify${entry}`), require(`@bloasis/notify${entry}`)];
      expect(Object.keys(cjs).sort()).toEqual(Object.keys(esm).filter((name) => name !== "default").sort());
    }
    vi.stubGlobal("WebSocket", undefined);
    wsClient.connect("user-123");
    expect(wsClient.state).toBe("idle");
  });

  test("names its address as bundlers look for it, and has no dependencies", () => {
    const read = (name: string) => readFileSync(new URL(`../${name}`, import.meta.url), "utf8");
    for (const name of ["index.js", "index.cjs"]) expect(read(`dist/${name}`)).toContain("process.env.NEXT_PUBLIC_WS_URL");
    expect(read("dist/index.js")).not.toMatch(/\bimport\b|\brequire\b/);
    const { dependencies } = JSON.parse(read("package.json"));
    expect(dependencies).toBeUndefined();
  });

  test("has a core under 3,072 bytes, minified and gzipped, smaller than its peers", async () => {
    const core = await sizeOf(IMPORTS["@bloasis/notify"]);
    expect(core).toBeLessThan(3072);
    for (const peer of ["reconnecting-websocket", "socket.io-client", "centrifuge"] as const)
      expect(core).toBeLessThan(await sizeOf(IMPORTS[peer]));
  });

  test("has a lock with hashes and without addresses", () => {
    const lock = readFileSync(new URL("../package-lock.json", import.meta.url), "utf8");
    const { packages } = JSON.parse(lock) as { packages: Record<string, { integrity?: string; resolved?: string }> };
    for (const [name, { integrity, resolved }] of Object.entries(packages)) {
      expect(resolved).toBeUndefined();
      if (name) expect(integrity, name).toMatch(/^sha512-/);
    }
  });
});
