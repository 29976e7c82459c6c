// What decides, by itself.

import { afterEach, describe, expect, test, vi } from "vitest";
import { backoffMs, retryAfterMs } from "../src/backoff.js";
import { createEventStreamParser, createTranslator, type Block } from "../src/event-stream.js";
import { createPlace } from "../src/place.js";
import { expiresAt, renewInMs } from "../src/token.js";
import { at, jwt, order } from "./world.js";

afterEach(() => {
  vi.useRealTimers();
});

describe("backoff", () => {
  test("is anywhere below 500 ms, then twice as much, up to 20 s", () => {
    vi.spyOn(Math, "random").mockReturnValue(1);
    expect([0, 1, 2, 3, 6, 7, 100, 5000].map(backoffMs)).toEqual([500, 500, 1000, 2000, 16_000, 20_000, 20_000, 20_000]);
    vi.spyOn(Math, "random").mockReturnValue(0);
    expect(backoffMs(7)).toBe(0);
  });

  test.each([
    ["unavailable retry_after_ms=1200", 1200],
    [7000, 7000],
    ["service_restart", 0],
    ["", 0],
    [undefined, 0],
    [null, 0],
    [-5, 5],
    [NaN, 0],
    [1e30, 30],
    ["9".repeat(400), 600_000],
  ])("%j asks for %i ms", (said, ms) => expect(retryAfterMs(said)).toBe(ms));
});

describe("a place", () => {
  test("goes on in another page where it was saved", () => {
    const place = createPlace();
    place.told(at(4, 0));
    place.takes(order(2));
    const other = createPlace(place.save());
    expect(other.cursor()).toBe("a.4.a.2");
    expect(other.takes(order(2))).toBe(false);
    expect(other.takes(order(3))).toBe(true);
  });

  test("is what was told last, also when that is less", () => {
    const place = createPlace();
    place.told(at(4, 4));
    place.takes(order(5));
    place.told(at(3, 3));
    expect(place.cursor()).toBe("a.3.a.3");
    expect(place.takes(order(5))).toBe(false);
    place.told({ global: { epoch: "b-", seq: 9 } });
    expect(place.cursor()).toBe("b-.9.a.5");
  });

  test("compares offsets as numbers, within partition and generation", () => {
    const place = createPlace();
    const takes = (id: string, seq: number) => place.takes(order(seq, { id }));
    expect(takes("risk-events/0/9", 1)).toBe(true);
    expect(takes("risk-events/0/10", 2)).toBe(true);
    expect(takes("risk-events/0/9", 3)).toBe(false);
    expect(takes("risk-events/1/9", 4)).toBe(true);
    expect(takes("risk-events~2/0/0", 5)).toBe(true);
    expect(takes("risk-events~2/0/0", 6)).toBe(false);
  });

  test("remembers partitions within bounds, the newest", () => {
    const place = createPlace();
    for (let number = 0; number < 5000; number++) place.takes(order(number + 1, { id: `topic/${number}/1` }));
    expect(JSON.parse(place.save())[1]).toHaveLength(4096);
    expect(place.takes(order(6000, { id: "topic/4999/1" }))).toBe(false);
  });
});

describe("a token", () => {
  test("says when it ends", () => {
    vi.useFakeTimers();
    const name = "ann-ü-💶-~~~???"; // base64url's own characters
    expect(expiresAt(jwt(600, { name }))).toBeCloseTo(Date.now() / 1000 + 600);
    for (const none of ["", "a.b.c", "a", jwt(0).split(".")[0]!]) expect(expiresAt(none)).toBeNaN();
  });

  test.each([
    [3600, 3540_000],
    [90, 45_000],
    [15, 11_000],
    [0, NaN],
    [-100, NaN],
    [NaN, NaN],
  ])("that ends in %d s is followed in %d ms", (seconds, ms) => {
    vi.useFakeTimers({ now: 1_700_000_000_000 });
    expect(renewInMs(Date.now() / 1000 + seconds)).toEqual(ms);
  });
});

describe("an event stream", () => {
  const EVENT = '{"type":"risk_alert","data":{"message":"a: b\\n"},"id":"risk-events/0/7","ts":1700000000000}';
  const REGIME = '{"type":"regime_change","data":{},"id":"regime-events~2/1/0","ts":1700000000001}';
  const STREAM =
    "retry: 2000\n\nid: a.4.b.1\n\n" +
    `event: risk_alert\ndata: ${EVENT}\nid: a.4.b.2\n\n` +
    ": heartbeat\nid: a.5.b.2\n\n: heartbeat\n\n" +
    'event: control\ndata: {"control":"resync","stream":"user","reason":"gap"}\n\n' +
    `event: regime_change\ndata: ${REGIME}\nid: a.6.b.2\n\n` +
    `event: regime_change\ndata: ${REGIME}\n\n`;
  const FRAMES = [
    { control: "welcome", global: { epoch: "a", seq: 4 }, user: { epoch: "b", seq: 1 }, heartbeat_ms: 60_000 },
    { ...JSON.parse(EVENT), stream: "user", epoch: "b", seq: 2 },
    { control: "heartbeat", global: { epoch: "a", seq: 5 }, user: { epoch: "b", seq: 2 } },
    { control: "resync", stream: "user", reason: "gap" },
    { ...JSON.parse(REGIME), stream: "global", epoch: "a", seq: 6 },
    { ...JSON.parse(REGIME), stream: "global", epoch: "", seq: 0, snapshot: true },
  ];
  const framesOf = (parts: string[]) => {
    const parse = createEventStreamParser();
    const translate = createTranslator(60_000);
    return parts.flatMap(parse).flatMap((block) => translate(block) ?? []).map((frame) => JSON.parse(frame));
  };

  test("says what notify.v1 would have said", () => {
    expect(framesOf([STREAM])).toEqual(FRAMES);
  });

  test.each(["\n", "\r\n"])("may be split anywhere, with lines that end in %j", (ending) => {
    const text = STREAM.replaceAll("\n", ending);
    expect(framesOf([...text])).toEqual(FRAMES);
    for (let at = 0; at < text.length; at += 7) expect(framesOf([text.slice(0, at), text.slice(at)])).toEqual(FRAMES);
  });

  test("has fields with and without space, colon, or meaning", () => {
    const [block] = createEventStreamParser()("data:a\ndata: b\ndata\nunknown: x\n:comment\nretry: 5\nid: c\nevent:e\n\n");
    expect(block).toEqual({ event: "e", data: "a\nb\n", id: "c", retryMs: 5 } satisfies Block);
  });

  test("brings a snapshot to a page that knows nothing yet", () => {
    const place = createPlace();
    expect(framesOf([STREAM]).filter((frame) => frame.snapshot).map((frame) => place.takes(frame))).toEqual([true]);
  });

  test("that has no end is given up", () => {
    const parse = createEventStreamParser();
    expect(() => {
      for (;;) parse("data: " + "x".repeat(1_000_000));
    }).toThrow("without end");
  });
});
