// A client and a server that keeps the contract, in thousands of worlds: connections are cut, refused, sent elsewhere,
// go silent; Redis loses its epoch and publishes again; the page is reloaded. SEED=7 repeats one of them.

import { afterEach, expect, test, vi } from "vitest";
import { at, createWorld, FakeSocket, memoryStorage, pass, settle, type World } from "./world.js";

afterEach(() => {
  vi.useRealTimers();
});

const WORLDS = 1000;
const STEPS = 60;

/** mulberry32: any generator would do that can be repeated. */
const generator = (seed: number) => (): number => {
  seed = (seed + 0x6d2b79f5) | 0;
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
};

/** One stream of three partitions, and whoever follows it. */
class Service {
  epoch = "e0";
  log: { id: string; seq: number }[] = [];
  /** Every id that was published, in order. */
  published: string[] = [];
  /** The epochs that are over: a cursor of one is no good. */
  private followers = new Map<FakeSocket, number>();
  private offsets = [0, 0, 0];

  constructor(private readonly random: () => number) {}

  publish(): void {
    const partition = Math.floor(this.random() * 3);
    const id = `execution-events/${partition}/${this.offsets[partition]!++}`;
    this.published.push(id);
    this.log.push({ id, seq: this.log.length + 1 });
  }
  /** All of it goes and is published again, the partitions in another order among themselves. */
  loseEverything(): void {
    this.epoch = `e${Number(this.epoch.slice(1)) + 1}`;
    const sources = [0, 1, 2].map((number) => this.published.filter((id) => id.split("/")[1] === `${number}`));
    const ids = this.published.map(() => {
      const left = sources.filter(({ length }) => length);
      return left[Math.floor(this.random() * left.length)]!.shift()!;
    });
    this.log = ids.map((id, number) => ({ id, seq: number + 1 }));
    // Who stays connected is given what it did not have; here all are cut off, which is the harder way.
    for (const socket of this.followers.keys()) socket.end(1006);
    this.followers.clear();
  }
  accept(socket: FakeSocket): void {
    const cursor = socket.query.cursor?.split(".");
    const isGood = !cursor || cursor[2] === this.epoch;
    const from = cursor ? (isGood ? Number(cursor[3]) : 0) : this.log.length;
    socket.welcome(at(0, from, this.epoch), { recovered: !!cursor && isGood });
    if (!isGood) socket.frame({ control: "resync", stream: "user", reason: "unknown_epoch" });
    this.followers.set(socket, from);
  }
  /** Write one more event to each that is behind, or all. */
  write(most: number): void {
    for (const [socket, had] of this.followers) {
      if (socket.readyState !== 1) {
        this.followers.delete(socket);
        continue;
      }
      const due = this.log.slice(had, had + most);
      for (const { id, seq } of due)
        socket.frame({ type: "order_executed", data: { order_id: id }, id, stream: "user", epoch: this.epoch, seq, ts: 1 });
      this.followers.set(socket, had + due.length);
      if (this.random() < 0.2)
        socket.frame({ control: "heartbeat", ...at(0, had + due.length, this.epoch), ts: 1 });
    }
  }
}

const connecting = () => FakeSocket.all.filter(({ readyState }) => readyState === 0);
const open = () => FakeSocket.all.filter(({ readyState }) => readyState === 1);

const live = async (seed: number): Promise<void> => {
  const random = generator(seed);
  const service = new Service(random);
  const storage = memoryStorage();
  const handed: string[] = [];
  let hadGap = false;
  const page = async (): Promise<World> => {
    const world = createWorld({ storage }, random());
    world.client.subscribe("order_executed", ({ order_id }) => handed.push(order_id));
    world.client.on("gap", () => (hadGap = true));
    world.client.connect("ann");
    await settle();
    return world;
  };
  let world = await page();
  service.accept(world.socket());
  for (let step = 0; step < STEPS; step++) {
    const dice = random();
    const [any] = open();
    FakeSocket.answers = random() < 0.8;
    if (dice < 0.35) service.publish();
    else if (dice < 0.6) service.write(1 + Math.floor(random() * 3));
    else if (dice < 0.7) connecting().forEach((socket) => service.accept(socket));
    else if (dice < 0.75) connecting().forEach((socket) => socket.end(random() < 0.5 ? 1006 : 4004, "unavailable retry_after_ms=700"));
    else if (dice < 0.8) any?.end([1006, 1012, 4000, 4005][step % 4]);
    else if (dice < 0.88) any?.frame({ control: "going_away", retry_after_ms: Math.floor(random() * 3000) });
    else if (dice < 0.9) service.loseEverything();
    else if (dice < 0.92) {
      // A new page; the old one is gone without a word.
      const { content } = storage;
      const saved = { ...content };
      world.client.disconnect();
      Object.assign(content, saved);
      world = await page();
    } else await pass(Math.floor(random() * 40_000));
  }
  // In the end all goes well.
  FakeSocket.answers = true;
  for (let times = 0; times < 60; times++) {
    await pass(5_000);
    connecting().forEach((socket) => service.accept(socket));
    service.write(1_000);
  }
  expect(world.client.state).toBe("open");
  expect(new Set(handed).size, "nothing twice").toBe(handed.length);
  expect([...handed].sort(), "nothing lost").toEqual([...service.published].sort());
  for (const partition of ["0", "1", "2"]) {
    const of = (ids: string[]) => ids.filter((id) => id.split("/")[1] === partition);
    expect(of(handed), "in order").toEqual(of(service.published));
  }
  if (!hadGap) expect(handed, "in the stream's order").toEqual(service.published);
  expect(world.errors).toEqual([]);
  world.client.disconnect();
};

test("whatever happens, each event is handed over once, in order", async () => {
  const only = process.env.SEED;
  for (const seed of only ? [Number(only)] : Array.from({ length: WORLDS }, (_, number) => number))
    await live(seed).catch((error: Error) => {
      error.message = `SEED=${seed}: ${error.message}`;
      throw error;
    });
}, 120_000);
