import { afterEach, describe, expect, test, vi } from "vitest";
import { createClient } from "../src/index.js";
import { at, connected, createWorld, FakeSocket, jwt, memoryStorage, order, pass, settle } from "./world.js";

afterEach(() => {
  vi.useRealTimers();
});

describe("a connection", () => {
  test("offers notify.v1 and says who connects, percent-encoded", async () => {
    const world = createWorld({ types: ["risk_alert", "order_executed"], device: "a b", snapshot: true });
    world.client.connect("ann+b c/ü");
    await settle();
    expect(world.socket().protocols).toEqual(["notify.v1"]);
    expect(world.socket().url).toBe(
      "wss://gateway.example/ws?user_id=ann%2Bb%20c%2F%C3%BC&types=risk_alert%2Corder_executed&device=a%20b&snapshot=1",
    );
  });

  test("goes to http addresses, relative ones, and ones with a query", async () => {
    for (const [url, expected] of [
      ["https://gateway.example/ws", "wss://gateway.example/ws?user_id=ann"],
      ["http://gateway.example/ws?region=eu", "ws://gateway.example/ws?region=eu&user_id=ann"],
      ["/notify/ws", "wss://app.example/notify/ws?user_id=ann"],
    ]) {
      const world = createWorld({ url: url! });
      vi.stubGlobal("location", { href: "https://app.example/page?x#y" });
      world.client.connect("ann");
      await settle();
      expect(world.socket().url).toBe(expected);
      world.client.disconnect();
    }
  });

  test("is one, however often it is asked for, until it is another user's", async () => {
    const world = createWorld();
    for (let times = 0; times < 3; times++) world.client.connect("ann");
    await settle();
    world.socket().welcome();
    world.client.connect("ann");
    world.client.connect();
    await settle();
    expect(world.sockets()).toHaveLength(1);
    world.socket().frame(order(1));
    world.client.connect("bob");
    await settle();
    expect(world.sockets()).toHaveLength(2);
    expect(world.sockets()[0]!.readyState).toBe(3);
    expect(world.socket().query).toEqual({ user_id: "bob" });
    expect(world.states.map(([state]) => state)).toEqual(["connecting", "open", "idle", "connecting"]);
  });

  test("needs no window, and nothing at all before it is asked for", async () => {
    vi.stubGlobal("WebSocket", undefined);
    const client = createClient({ url: "/ws" });
    client.connect("ann");
    expect(client.state).toBe("idle");
    expect(client.send({})).toBe(false);
    client.disconnect();
  });

  test("hands events over by type, then to all, with what their frames say", async () => {
    const world = await connected();
    const got: unknown[] = [];
    const ends = world.client.subscribe("order_executed", (data, message) => got.push([data.order_id, message.id]));
    world.client.subscribe("risk_alert", () => got.push("of another type"));
    world.socket().frame(order(1));
    ends();
    world.socket().frame(order(2));
    expect(got).toEqual([["1", "execution-events/0/1"]]);
    expect(world.messages).toEqual([order(1), order(2)]);
    expect(world.client.send({ control: "ping" })).toBe(true);
    expect(world.socket().said).toEqual([{ control: "ping" }]);
  });

  test("that is over is heard of no more", async () => {
    const world = await connected();
    const socket = world.socket();
    world.client.disconnect();
    socket.frame(order(1));
    socket.end(4500, "unauthorized");
    await pass(60_000);
    expect(world.messages).toEqual([]);
    expect(world.states.at(-1)).toEqual(["idle", ""]);
    expect(world.sockets()).toHaveLength(1);
    expect(vi.getTimerCount()).toBe(0);
  });

  test.each(["state", "event"])("may be ended by a handler of a %s", async (what) => {
    const world = createWorld();
    if (what === "event") world.client.subscribe("order_executed", () => world.client.disconnect());
    else world.client.on("state", (state) => state === "reconnecting" && world.client.disconnect());
    world.client.connect("ann");
    await settle();
    world.socket().welcome().frame(order(1));
    if (what === "state") world.socket().end();
    await pass(60_000);
    expect(world.client.state).toBe("idle");
    expect(world.sockets()).toHaveLength(1);
    expect(vi.getTimerCount()).toBe(0);
  });

  test("may be ended as it begins", async () => {
    const world = createWorld();
    world.client.on("state", (state) => state === "connecting" && world.client.disconnect());
    world.client.connect("ann");
    await pass(60_000);
    expect(world.client.state).toBe("idle");
    expect(world.sockets()).toHaveLength(0);
    expect(vi.getTimerCount()).toBe(0);
  });
});

describe("a client that comes again", () => {
  test("says where it is, and drops what it knows", async () => {
    const world = createWorld();
    world.client.connect("ann");
    await settle();
    world.socket().welcome(at(7, 3)).frame(order(4));
    world.socket().frame(order(5));
    world.socket().end();
    expect(world.client.state).toBe("reconnecting");
    await pass(500);
    expect(world.socket().query.cursor).toBe("a.7.a.5");
    world.socket().welcome(at(7, 5), { recovered: true });
    world.socket().frame({ control: "heartbeat", ...at(9, 5), ts: 1 });
    world.socket().frame(order(6));
    world.socket().end();
    await pass(2000);
    expect(world.socket().query.cursor).toBe("a.9.a.6");
    expect(world.orders()).toEqual(["4", "5", "6"]);
  });

  test("after a loss is told of the gap, and drops by offset what it knows", async () => {
    const world = await connected();
    for (const seq of [1, 2, 3]) world.socket().frame(order(seq));
    world.socket().end();
    await pass(500);
    world.socket().welcome(at(0, 0, "b"));
    world.socket().frame({ control: "resync", stream: "user", reason: "unknown_epoch" });
    for (const seq of [1, 2, 3, 4]) world.socket().frame(order(seq, { epoch: "b" }));
    world.socket().frame(order(1, { epoch: "b", id: "execution-events~2/0/0", seq: 5 }));
    expect(world.gaps).toEqual([{ stream: "user", reason: "unknown_epoch" }]);
    expect(world.messages.map((message) => message.id)).toEqual([
      ...[1, 2, 3, 4].map((offset) => `execution-events/0/${offset}`),
      "execution-events~2/0/0",
    ]);
  });

  test("says how many of a conflated type were left out, and goes on behind the hole", async () => {
    const world = await connected();
    const told: unknown[] = [];
    world.client.on("conflated", (conflated) => told.push(conflated));
    world.socket().frame(order(1));
    world.socket().frame({ control: "conflated", stream: "user", type: "order_executed", dropped: 3 });
    world.socket().frame(order(5));
    expect(told).toEqual([{ stream: "user", type: "order_executed", dropped: 3 }]);
    expect(world.orders()).toEqual(["1", "5"]);
    expect(world.errors).toEqual([]);
  });

  test("goes by the server's word when it was ahead of its stream", async () => {
    const world = createWorld({ cursor: "a.9.a.9" });
    world.client.connect("ann");
    await settle();
    expect(world.socket().query.cursor).toBe("a.9.a.9");
    world.socket().welcome(at(2, 2));
    world.socket().frame({ control: "resync", stream: "user", reason: "unknown_cursor" });
    world.socket().frame(order(3, { id: undefined }));
    expect(world.orders()).toEqual(["3"]);
    world.socket().end();
    await pass(500);
    expect(world.socket().query.cursor).toBe("a.2.a.3");
  });

  test("is given what follows a gap, also below where it was", async () => {
    const world = await connected();
    world.socket().frame(order(9));
    world.socket().end();
    await pass(500);
    world.socket().welcome(at(0, 2));
    world.socket().frame({ control: "resync", stream: "user", reason: "unknown_cursor" });
    world.socket().frame(order(3, { id: "execution-events/0/10" }));
    expect(world.messages.map(({ seq }) => seq)).toEqual([9, 3]);
  });

  test("makes one attempt at a time, whatever wakes it", async () => {
    const world = await connected();
    world.socket().end();
    for (let times = 0; times < 5; times++) {
      world.window.dispatchEvent(new Event("online"));
      await settle();
    }
    expect(world.sockets()).toHaveLength(2);
  });

  test("keeps its place where it is told to, for its user, until it disconnects", async () => {
    const storage = memoryStorage();
    const first = await connected({ storage });
    first.socket().frame(order(4));
    expect(Object.keys(storage.content)).toEqual(["notify:ann"]);

    const second = createWorld({ storage: memoryStorage({ ...storage.content }), cursor: "z.1.z.1" });
    second.client.connect("ann");
    await settle();
    expect(second.socket().query.cursor).toBe("a.0.a.4");
    second.socket().welcome(at(0, 0, "b")).frame(order(4, { epoch: "b", seq: 1 }));
    second.socket().frame(order(5, { epoch: "b", seq: 2 }));
    expect(second.orders()).toEqual(["5"]);

    const other = createWorld({ storage: memoryStorage({ ...storage.content }) });
    other.client.connect("bob");
    await settle();
    expect(other.socket().query).toEqual({ user_id: "bob" });

    first.client.disconnect();
    expect(storage.content).toEqual({});
    first.client.connect("ann");
    await settle();
    expect(FakeSocket.all.at(-1)!.query).toEqual({ user_id: "ann" });
  });

  test.each([
    ["not JSON", "{"],
    ["null", "null"],
    ["another's", '{"cursor":"x"}'],
    ["of the wrong types", '[5,{"a":1}]'],
    ["of the wrong shape", '[{"global":1,"user":"x"},[]]'],
    ["an injection", '[{"global":{"epoch":"a&token=x","seq":1},"user":{"epoch":"a","seq":1}},[]]'],
    ["out of range", '[{"global":{"epoch":"a","seq":-1},"user":{"epoch":"a","seq":1e99}},[["execution-events/0","x"]]]'],
  ])("takes a stored place that is %s for none", async (_, saved) => {
    const world = createWorld({ storage: memoryStorage({ "notify:ann": saved }) });
    world.client.connect("ann");
    await settle();
    expect(world.socket().query).toEqual({ user_id: "ann" });
    world.socket().welcome().frame(order(1));
    expect(world.orders()).toEqual(["1"]);
    expect(world.errors).toEqual([]);
  });

  test("goes on with a storage that is full, and says so", async () => {
    const full = () => {
      throw new Error("full");
    };
    const world = await connected({ storage: { getItem: full, setItem: full, removeItem: full } });
    world.socket().frame(order(1));
    world.socket().end();
    await pass(500);
    expect(world.socket().query.cursor).toBe("a.0.a.1");
    expect(world.errors.map(String)).toContain("Error: full");
  });

  test("does so at once after a connection that lasted, later and later otherwise", async () => {
    const world = await connected();
    await pass(5_000);
    const pauses = [];
    for (let times = 0; times < 9; times++) {
      const before = Date.now();
      const count = world.sockets().length;
      world.socket().end();
      while (world.sockets().length === count) await pass(100);
      pauses.push(Date.now() - before);
    }
    expect(pauses).toEqual([500, 500, 1000, 2000, 4000, 8000, 16_000, 20_000, 20_000]);
    world.socket().welcome();
    await pass(5_000);
    world.socket().end();
    const count = world.sockets().length;
    await pass(500);
    expect(world.sockets()).toHaveLength(count + 1);
  });

  test("waits as long as the server asks, within reason", async () => {
    const world = await connected();
    world.socket().end(4004, "unavailable retry_after_ms=3000");
    await pass(2900);
    expect(world.sockets()).toHaveLength(1);
    await pass(100);
    expect(world.sockets()).toHaveLength(2);
    world.socket().end(4004, "unavailable retry_after_ms=99999999999999");
    await pass(600_000);
    expect(world.sockets()).toHaveLength(3);
  });

  test.each([1000, 1005, 1006, 1011, 1012, 4000, 4001, 4004, 4005, 4499, 5000])("does so after %i", async (code) => {
    const world = await connected();
    world.socket().end(code, "why");
    expect(world.states.at(-1)).toEqual(["reconnecting", "why"]);
    await pass(1000);
    expect(world.sockets()).toHaveLength(2);
  });

  test.each([4500, 4502, 4503, 4504, 4999])("does not after %i, unless it is asked to", async (code) => {
    const world = await connected();
    world.socket().frame(order(1));
    world.socket().end(code, "why");
    expect(world.states.at(-1)).toEqual(["closed", "why"]);
    world.window.dispatchEvent(new Event("online"));
    await pass(100_000);
    expect(world.sockets()).toHaveLength(1);
    expect(vi.getTimerCount()).toBe(0);
    world.client.connect("ann");
    await settle();
    expect(world.socket().query.cursor).toBe("a.0.a.1");
  });

  test("gives up an attempt that leads nowhere", async () => {
    const world = createWorld();
    world.client.connect("ann");
    await pass(15_000);
    expect(world.socket().readyState).toBe(3);
    await pass(500);
    expect(world.sockets()).toHaveLength(2);
    expect(world.client.state).toBe("connecting");
  });
});

describe("silence", () => {
  test("is asked about, and two pings without an answer end the connection", async () => {
    const world = await connected();
    await pass(22_400);
    expect(world.socket().said).toEqual([]);
    await pass(100);
    expect(world.socket().said).toEqual([{ control: "ping" }]);
    await pass(5_000);
    expect(world.socket().said).toHaveLength(2);
    await pass(4_900);
    expect(world.client.state).toBe("open");
    await pass(100);
    expect(world.client.state).toBe("reconnecting");
    expect(world.socket().readyState).toBe(3);
  });

  test("ends with anything that comes", async () => {
    const world = await connected();
    for (let times = 0; times < 20; times++) {
      await pass(27_000);
      world.socket().frame({ control: "pong" });
    }
    expect(world.sockets()).toHaveLength(1);
    expect(world.socket().said).toHaveLength(20);
  });

  test("after sleep does not end a connection that is alive", async () => {
    const world = await connected();
    // Asleep with a ping on its way: its timer is due at once on waking, before the answer is heard.
    await pass(22_500);
    vi.setSystemTime(Date.now() + 3_600_000);
    await pass(5_000);
    expect(world.client.state).toBe("open");
    world.socket().frame({ control: "pong" });
    await pass(20_000);
    expect(world.sockets()).toHaveLength(1);
  });

  test("in a hidden tab, whose timers fire once a minute, is found, and not where there is none", async () => {
    const world = await connected();
    const timeout = globalThis.setTimeout;
    vi.stubGlobal("setTimeout", (does: () => void, ms: number) => timeout(does, Math.ceil((Date.now() + ms) / 60_000) * 60_000 - Date.now()));
    world.socket().welcome();
    world.socket().frame({ control: "heartbeat", ts: 1 });
    for (let times = 0; times < 40; times++) {
      // What comes is heard at once, in hidden tabs, too.
      const asked = world.socket().said.length;
      await pass(15_000);
      world.socket().frame({ control: "heartbeat", ts: 1 });
      if (world.socket().said.length > asked) world.socket().frame({ control: "pong" });
    }
    expect(world.client.state).toBe("open");
    expect(world.sockets()).toHaveLength(1);
    // Three timers, and one for the next attempt, each late by up to a minute, whatever second it is now.
    await pass(360_000);
    expect(world.sockets().length).toBeGreaterThan(1);
  });

  test("is asked about at once when the network or the page comes back, however often", async () => {
    const world = await connected();
    for (const name of ["online", "offline", "visibilitychange", "pageshow"]) world.window.dispatchEvent(new Event(name));
    expect(world.socket().said).toEqual([{ control: "ping" }]);
    await pass(4_900);
    world.socket().frame({ control: "pong" });
    await pass(10_000);
    expect(world.client.state).toBe("open");
  });

  test("of a server whose heartbeat makes no sense is bounded all the same", async () => {
    for (const heartbeat_ms of ["x", null, -1, 0, 1e12, undefined]) {
      const world = createWorld();
      world.client.connect("ann");
      await settle();
      world.socket().welcome({}, { heartbeat_ms });
      await pass(1);
      expect(world.socket().said).toEqual([]);
      await pass(900_000 + 2 * 5_000 + 500);
      expect(world.sockets().length).toBeGreaterThan(1);
      world.client.disconnect();
    }
  });

  test("offline is not filled with attempts, and ends when the network is back", async () => {
    const world = await connected();
    vi.stubGlobal("navigator", { onLine: false });
    world.socket().end();
    await pass(19_900);
    expect(world.sockets()).toHaveLength(1);
    vi.stubGlobal("navigator", { onLine: true });
    world.window.dispatchEvent(new Event("online"));
    await settle();
    expect(world.sockets()).toHaveLength(2);
  });
});

describe("a server that goes away", () => {
  test("is left when the time has come, with the next connection open before", async () => {
    const world = await connected();
    await pass(5_000);
    const [old] = world.sockets();
    old!.frame(order(1));
    old!.frame({ control: "going_away", retry_after_ms: 7000 });
    await pass(6_900);
    expect(world.sockets()).toHaveLength(1);
    await pass(100);
    expect(world.sockets()).toHaveLength(2);
    expect(world.socket().query.cursor).toBe("a.0.a.1");
    // Both bring what came meanwhile.
    old!.frame(order(2));
    old!.frame(order(3));
    expect(old!.readyState).toBe(1);
    world.socket().welcome(at(0, 1), { recovered: true });
    expect(old!.readyState).toBe(3);
    for (const seq of [2, 3, 4]) world.socket().frame(order(seq));
    old!.end(1012, "service_restart");
    expect(world.orders()).toEqual(["1", "2", "3", "4"]);
    expect(world.states.map(([state]) => state)).toEqual(["connecting", "open"]);
    await pass(60_000 - 40_000);
    expect(world.sockets()).toHaveLength(2);
  });

  test("is kept while there is no other", async () => {
    const world = await connected();
    await pass(5_000);
    const [old] = world.sockets();
    old!.frame({ control: "going_away", retry_after_ms: 0 });
    await pass(500);
    world.socket().end(4004, "unavailable retry_after_ms=1000");
    old!.frame(order(1));
    expect(world.client.state).toBe("open");
    await pass(1_000);
    expect(world.sockets()).toHaveLength(3);
    old!.end(1012, "service_restart");
    expect(world.client.state).toBe("reconnecting");
    world.socket().welcome(at(0, 0)).frame(order(1));
    expect(world.client.state).toBe("open");
    expect(world.orders()).toEqual(["1"]);
  });

  test("for ever is followed slower and slower", async () => {
    const world = await connected();
    const times = [];
    for (let count = 1; count < 12; count++) {
      const began = Date.now();
      for (let again = 0; again < 5; again++) world.socket().frame({ control: "going_away", retry_after_ms: 0 });
      while (world.sockets().length === count) {
        await pass(100);
        world.socket().frame({ control: "pong" });
      }
      times.push(Date.now() - began);
      world.socket().welcome();
    }
    expect(times.slice(-3)).toEqual([20_000, 20_000, 20_000]);
  });

  test("and says so again and again is left no later", async () => {
    const world = await connected();
    await pass(5_000);
    for (let times = 0; times < 5; times++) {
      world.socket().frame({ control: "going_away", retry_after_ms: 0 });
      await pass(100);
    }
    expect(world.sockets()).toHaveLength(2);
  });

  test("by closing at once after it said so is one reason to leave, not two", async () => {
    const world = await connected();
    await pass(5_000);
    world.socket().frame({ control: "going_away", retry_after_ms: 0 });
    world.socket().end(4005, "rebalance");
    await pass(500);
    expect(world.sockets()).toHaveLength(2);
  });

  test("because its user has one connection too many goes without ending the client", async () => {
    const world = await connected();
    await pass(5_000);
    const [old] = world.sockets();
    old!.frame({ control: "going_away", retry_after_ms: 0 });
    await pass(500);
    old!.end(4502, "replaced");
    world.socket().welcome();
    expect(world.client.state).toBe("open");
  });
});

describe("tokens", () => {
  test("are fresh for each attempt, and offered as a subprotocol", async () => {
    let number = 0;
    const world = createWorld({ token: async () => `token-${++number}` });
    world.client.connect();
    await settle();
    expect(world.socket().protocols).toEqual(["notify.v1", "bearer.token-1"]);
    expect(world.socket().query).toEqual({});
    world.socket().end(4001, "token_expired");
    await pass(1000);
    expect(world.socket().protocols).toEqual(["notify.v1", "bearer.token-2"]);
  });

  test.each([
    ["are refused", () => Promise.reject(new Error("signed out"))],
    ["throw", () => { throw new Error("signed out"); }],
    ["are none", () => Promise.resolve(null as unknown as string)],
    ["cannot be sent", () => Promise.resolve("very secret")],
    ["cannot be sent in base64", () => Promise.resolve("very/secret==")],
  ])("that %s are asked for again, later and later", async (_, token) => {
    const asked = vi.fn(token);
    const world = createWorld({ token: asked });
    world.client.connect("ann");
    await pass(10_000);
    expect(asked.mock.calls.length).toBeGreaterThan(3);
    expect(asked.mock.calls.length).toBeLessThan(8);
    expect(world.errors).toHaveLength(asked.mock.calls.length);
    expect(world.sockets()).toHaveLength(0);
    expect(world.client.state).toBe("connecting");
    expect(world.errors.map(String).join()).not.toContain("secret");
  });

  test("that never come are waited for within bounds", async () => {
    const token = vi.fn(() => new Promise<string>(() => {}));
    const world = createWorld({ token });
    world.client.connect("ann");
    await pass(16_000);
    expect(token).toHaveBeenCalledTimes(2);
    world.client.disconnect();
    expect(vi.getTimerCount()).toBe(0);
  });

  test("that come after the end open nothing", async () => {
    let give = (_: string) => {};
    const world = createWorld({ token: () => new Promise((resolve) => (give = resolve)) });
    world.client.connect("ann");
    world.client.disconnect();
    give("late");
    await settle();
    expect(world.sockets()).toHaveLength(0);
  });

  test("are followed by a fresh one a minute before they end, over the socket", async () => {
    const token = vi.fn(() => jwt(600));
    const world = createWorld({ token });
    world.client.connect();
    await settle();
    world.socket().welcome();
    const alive = setInterval(() => world.socket().frame({ control: "heartbeat", ts: 1 }), 15_000);
    await pass(539_000);
    expect(token).toHaveBeenCalledTimes(1);
    await pass(1_000);
    expect(world.socket().said).toEqual([{ control: "auth", token: token.mock.results[1]!.value }]);
    world.socket().frame({ control: "auth", expires_at: Date.now() / 1000 + 600 });
    await pass(540_000);
    expect(token).toHaveBeenCalledTimes(3);
    expect(world.sockets()).toHaveLength(1);
    clearInterval(alive);
  });

  test.each([
    ["no JWT", "opaque"],
    ["malformed", "a.!!!.c"],
    ["older than this clock says", jwt(-3600)],
    ["for ever", jwt(1e9)],
    ["of no known end", jwt(0, { exp: "soon" })],
  ])("that are %s are followed when the server says that they have ended", async (_, token) => {
    const asked = vi.fn(() => token);
    const world = createWorld({ token: asked });
    world.client.connect();
    await settle();
    world.socket().welcome();
    await pass(20_000);
    expect(asked).toHaveBeenCalledTimes(1);
    world.socket().frame({ control: "error", code: "token_expired", message: "send a fresh one" });
    await settle();
    expect(world.socket().said).toEqual([{ control: "auth", token }]);
    expect(world.errors).toEqual([]);
  });

  test("that the server does not take are sent again, not too soon", async () => {
    const world = createWorld({ token: () => "opaque" });
    world.client.connect();
    await settle();
    world.socket().welcome();
    world.socket().frame({ control: "error", code: "token_expired", message: "" });
    await settle();
    world.socket().frame({ control: "error", code: "unavailable", message: "its key is not known" });
    await pass(10_900);
    expect(world.socket().said).toHaveLength(1);
    await pass(100);
    expect(world.socket().said).toHaveLength(2);
    expect(world.errors.map(String)).toEqual(["Error: unavailable: its key is not known"]);
  });

  test("that fail while connected leave the connection as it is", async () => {
    let fails = false;
    const world = createWorld({
      token: () => {
        if (fails) throw new Error("no network");
        return jwt(600);
      },
    });
    world.client.connect();
    await settle();
    world.socket().welcome();
    const alive = setInterval(() => world.socket().frame({ control: "heartbeat", ts: 1 }), 15_000);
    fails = true;
    await pass(545_000);
    expect(world.errors.map(String)).toEqual(["Error: no network"]);
    fails = false;
    await pass(11_000);
    expect(world.socket().said).toHaveLength(1);
    expect(world.client.state).toBe("open");
    clearInterval(alive);
  });
});

describe("acks", () => {
  test("say what was handled, at most once a second, and at the end", async () => {
    const world = await connected({ device: "phone" });
    expect(world.socket().query.device).toBe("phone");
    for (const seq of [1, 2, 3]) world.socket().frame(order(seq));
    expect(world.socket().said).toEqual([]);
    await pass(1000);
    world.socket().frame(order(4));
    world.client.disconnect();
    expect(world.socket().said).toEqual([
      { control: "ack", cursor: "a.0.a.3" },
      { control: "ack", cursor: "a.0.a.4" },
    ]);
  });

  test("are said before the page goes to the background", async () => {
    const world = await connected({ device: "phone" });
    world.socket().frame(order(1));
    world.window.dispatchEvent(new Event("visibilitychange"));
    expect(world.socket().said[0]).toEqual({ control: "ack", cursor: "a.0.a.1" });
  });

  test("are not said of a place that is none to come back to, nor without a device", async () => {
    const unsettled = await connected({ device: "phone" });
    unsettled.socket().frame(order(1, { epoch: "b-" }));
    await pass(2000);
    expect(unsettled.socket().said).toEqual([]);
    const none = await connected();
    none.socket().frame(order(1));
    await pass(2000);
    expect(none.socket().said).toEqual([]);
  });

  test("are where a device without a place begins", async () => {
    const world = createWorld({ device: "phone", cursor: "ack" });
    world.client.connect("ann");
    await settle();
    expect(world.socket().query.cursor).toBe("ack");
  });
});

describe("a snapshot", () => {
  test("is no place, and does not hide what is replayed before it", async () => {
    const world = await connected({ snapshot: true });
    world.socket().frame(order(9, { snapshot: true }));
    world.socket().frame(order(8));
    world.socket().frame(order(9));
    expect(world.messages.map((message) => message.seq)).toEqual([9, 8, 9]);
    world.socket().frame(order(9, { snapshot: true }));
    expect(world.messages).toHaveLength(3);
  });
});

describe("bad input", () => {
  test.each(["not JSON", "", "5", "null", "[]", "{}", '"text"', '{"data":1}'])("%j is reported and does no harm", async (text) => {
    const world = await connected();
    world.socket().frame(text);
    world.socket().frame(order(1));
    expect(world.errors).toHaveLength(1);
    expect(world.orders()).toEqual(["1"]);
  });

  test.each([
    '{"control":"of tomorrow"}',
    '{"control":{}}',
    '{"control":"going_away"}',
    '{"control":"welcome"}',
    '{"control":"heartbeat","global":null,"user":{}}',
    '{"control":"auth","expires_at":"x"}',
    '{"type":"of tomorrow","data":{}}',
    '{"type":"__proto__","data":{},"id":"__proto__/1","stream":"__proto__","epoch":"a","seq":1}',
    '{"type":"order_executed","data":{},"id":5}',
  ])("%s does no harm", async (text) => {
    const world = await connected();
    world.socket().frame(text);
    world.socket().frame(order(1));
    expect(world.messages.at(-1)).toEqual(order(1));
    expect(({} as Record<string, unknown>).epoch).toBeUndefined();
    world.socket().end();
    await pass(20_000);
    expect(world.sockets().length).toBeGreaterThan(1);
  });

  test("that is neither text nor JSON is reported", async () => {
    const world = await connected();
    world.socket().onmessage({ data: new ArrayBuffer(8) });
    expect(world.errors).toHaveLength(1);
  });

  test("an event type that is the name of something else reaches nobody else", async () => {
    const world = await connected();
    for (const type of ["state", "own state", "own error", "event order_executed"])
      world.socket().frame({ ...order(1), id: undefined, seq: 0, type });
    expect(world.states.map(([state]) => state)).toEqual(["connecting", "open"]);
    expect(world.errors).toEqual([]);
  });

  test("a handler that throws is reported once, and the others still run", async () => {
    const world = await connected();
    const ran: string[] = [];
    world.client.subscribe("order_executed", () => {
      throw new Error("mine");
    });
    world.client.subscribe("order_executed", () => ran.push("other"));
    world.socket().frame(order(1));
    expect(world.errors.map(String)).toEqual(["Error: mine"]);
    expect(ran).toEqual(["other"]);
    expect(world.orders()).toEqual(["1"]);
  });

  test("without a listener errors go to the page's own reporting; a listener that throws does, too", async () => {
    const reported = vi.fn();
    vi.stubGlobal("reportError", reported);
    const client = createClient({ url: "wss://gateway.example/ws" });
    createWorld();
    client.subscribe("order_executed", () => {
      throw new Error("mine");
    });
    client.connect("ann");
    await settle();
    FakeSocket.all[0]!.welcome().frame(order(1));
    expect(reported.mock.calls.map(String)).toEqual(["Error: mine"]);
    client.on("error", () => {
      throw new Error("the listener's");
    });
    FakeSocket.all[0]!.frame(order(2));
    expect(reported.mock.calls.map(String)).toEqual(["Error: mine", "Error: the listener's"]);
  });

  test("a handler taken away by another one is not called", async () => {
    const world = await connected();
    const second = vi.fn();
    let ends = () => {};
    world.client.subscribe("order_executed", () => ends());
    ends = world.client.subscribe("order_executed", second);
    world.socket().frame(order(1));
    expect(second).not.toHaveBeenCalled();
  });
});

describe("another way in", () => {
  test("is tried when two WebSockets have failed, kept to while it works, and left for one", async () => {
    const opened: string[] = [];
    const closed = vi.fn();
    let on: { message(text: string): void; close(code: number, reason: string): void };
    const world = createWorld({
      fallback: (url, _, hears) => {
        opened.push(url);
        on = hears;
        return { send: () => false, close: closed };
      },
    });
    world.client.connect("ann");
    await settle();
    for (const pause of [500, 1000]) {
      world.socket().end();
      await pass(pause);
    }
    expect(world.sockets()).toHaveLength(2);
    expect(opened).toEqual(["wss://gateway.example/ws?user_id=ann"]);
    on!.message(JSON.stringify({ control: "welcome", ...at(0, 0), heartbeat_ms: 60_000 }));
    expect(world.client.state).toBe("open");
    on!.message(JSON.stringify(order(1, { id: undefined })));
    await pass(5_000);
    on!.close(1006, "");
    await pass(500);
    expect(opened).toHaveLength(2);
    on!.message(JSON.stringify({ control: "welcome", ...at(0, 1), heartbeat_ms: 60_000 }));
    await pass(5_000);
    expect(world.sockets()).toHaveLength(2);
    on!.message('{"control":"going_away","better":true}');
    await pass(500);
    expect(world.sockets()).toHaveLength(3);
    on!.message(JSON.stringify(order(2, { id: undefined })));
    world.socket().welcome(at(0, 1)).frame(order(2));
    world.socket().frame(order(3));
    expect(closed).toHaveBeenCalled();
    expect(world.orders()).toEqual(["1", "2", "3"]);
  });
});
