// When there is a connection, and what is done with what it brings.

import { backoffMs, MAX_MS, retryAfterMs } from "./backoff.js";
import { createEmitter, event, own } from "./emitter.js";
import { openLink, type Frame, type Link } from "./link.js";
import { createPlace, type Place } from "./place.js";
import { expiresAt, RENEW_AGAIN_MS, renewInMs } from "./token.js";
import type { Client, ClientOptions, EventTypes, State } from "./types.js";
import { webSocket } from "./websocket.js";

const STABLE_MS = 5_000;
const ACK_MS = 1_000;
const WAKES = ["online", "offline", "pageshow", "visibilitychange"];

type Timer = ReturnType<typeof setTimeout> | undefined;

/** A client of one user, idle until `connect`. Touches nothing before, so it may be made on a server. */
export const createClient = <Events = EventTypes>(options: ClientOptions): Client<Events> => {
  const { url, token, device, storage, fallback } = options;
  const { on, emit, error } = createEmitter();

  let state: State = "idle";
  let user: string | undefined;
  let place: Place | undefined;
  /** What events come from. */
  let current: Link | undefined;
  /** What is to take its place; until it is welcomed `current` goes on. */
  let next: Link | undefined;
  /** The one that was told to go. */
  let leaving: Link | undefined;
  /** Since a connection lasted. */
  let attempts = 0;
  /** Which transport comes next: two times a WebSocket, then the fallback; what works is kept to. */
  let turn = 0;
  let retry: Timer, stable: Timer, renewal: Timer, acking: Timer;

  const become = (now: State, reason = "") => {
    if (state === now) return;
    state = now;
    emit(own("state"), state, reason);
  };

  // The place

  const stored = (does: (storage: NonNullable<typeof options.storage>, key: string) => string | null | void) => {
    try {
      return storage && does(storage, "notify:" + (user ?? ""));
    } catch (thrown) {
      error(thrown); // full, or forbidden: the place in memory is as good, for this page
    }
    return null;
  };

  const moved = () => {
    if (!current) return; // a handler disconnected
    stored((storage, key) => storage.setItem(key, place!.save()));
    if (device) acking ??= setTimeout(acknowledge, ACK_MS);
  };

  const acknowledge = () => {
    const cursor = place?.cursor();
    // One of an epoch that is not settled yet is no place to come back to.
    if (acking && cursor && !cursor.includes("-")) current?.send({ control: "ack", cursor });
    clearTimeout(acking);
    acking = undefined;
  };

  // Connections

  const address = () => {
    const query = {
      user_id: user,
      types: options.types?.join(),
      device,
      snapshot: options.snapshot && 1,
      cursor: place!.cursor(),
    };
    const { href } = new URL(typeof url == "function" ? url() : url, globalThis.location?.href);
    // Not URLSearchParams: a plus in a query is a plus here.
    return Object.entries(query).reduce(
      (address, [name, value]) =>
        value ? address + (address.includes("?") ? "&" : "?") + name + "=" + encodeURIComponent(value) : address,
      href.replace(/^http/, "ws"),
    );
  };

  const attempt = () => {
    clearTimeout(retry);
    if (next) return;
    const transport = fallback && turn % 3 == 2 ? fallback : webSocket;
    attempts++;
    next = openLink(transport, token, address, { frame, end, error });
  };

  const attemptIn = (atLeastMs: number) => {
    clearTimeout(retry);
    const pauseMs = globalThis.navigator?.onLine === false ? MAX_MS : backoffMs(attempts);
    retry = setTimeout(attempt, Math.max(atLeastMs, pauseMs));
  };

  const end = (link: Link, code: number, reason: string) => {
    if (link === next) {
      next = undefined;
      turn++;
    } else left();
    // One connection too many ends the oldest, which is ours while another one opens: that one decides.
    if (code >= 4500 && code < 5000 && !next) return stop("closed", reason);
    if (!next) attemptIn(retryAfterMs(reason));
    // Last, as everywhere: who hears of it may disconnect.
    if (!current && state == "open") become("reconnecting", reason);
  };

  const left = () => {
    current = undefined;
    clearTimeout(stable);
    clearTimeout(renewal);
  };

  const stop = (as: State, reason?: string) => {
    for (const link of [current, next]) link?.close();
    left();
    next = undefined;
    clearTimeout(retry);
    clearTimeout(acking);
    acking = undefined;
    for (const name of WAKES) globalThis.removeEventListener?.(name, wake);
    become(as, reason);
  };

  const wake = () => {
    acknowledge();
    if (current) current.probe();
    else if (globalThis.navigator?.onLine !== false) attempt();
  };

  // The token

  const renewIn = (ms: number) => {
    clearTimeout(renewal);
    if (token && ms >= 0) renewal = setTimeout(renew, Math.min(ms, 2 ** 31 - 1));
  };

  const renew = async () => {
    const link = current;
    try {
      const fresh = await token!();
      // Where nothing can be sent another connection brings the token.
      if (link && link === current && !link.send({ control: "auth", token: fresh })) attempt();
    } catch (thrown) {
      error(thrown);
      if (link === current) renewIn(RENEW_AGAIN_MS);
    }
  };

  // Frames

  const frame = (link: Link, frame: Frame) => {
    switch (frame.control) {
      case undefined:
        if (place!.takes(frame as Parameters<Place["takes"]>[0])) {
          emit(event(frame.type), frame.data, frame);
          emit(event("*"), frame);
        }
        return moved();
      case "welcome":
        if (link !== next) return;
        current?.close();
        left();
        current = link;
        next = undefined;
        place!.told(frame);
        moved();
        link.watch(frame.heartbeat_ms);
        stable = setTimeout(() => (attempts = 0), STABLE_MS);
        renewIn(renewInMs(expiresAt(link.token ?? "")));
        return become("open");
      case "heartbeat":
        place!.told(frame);
        return moved();
      case "resync":
        place!.resync(frame.stream);
        return emit(own("gap"), { stream: frame.stream, reason: frame.reason });
      case "conflated":
        return emit(own("conflated"), { stream: frame.stream, type: frame.type, dropped: frame.dropped });
      case "going_away":
        if (link !== current || link === leaving) return;
        leaving = link;
        if (frame.better) turn = 0;
        clearTimeout(stable);
        return attemptIn(retryAfterMs(frame.retry_after_ms));
      case "auth":
        return renewIn(renewInMs(frame.expires_at));
      case "error":
        if (frame.code == "token_expired") return renewIn(0);
        if (/^(unauthorized|unavailable|too_many_auth)$/.test(frame.code)) renewIn(RENEW_AGAIN_MS);
        return error(new Error(frame.code + ": " + frame.message));
    }
  };

  const client = {
    get state() {
      return state;
    },
    connect(userId: string | undefined = options.userId ?? user) {
      if (userId !== user) client.disconnect();
      if ((state != "idle" && state != "closed") || !(globalThis.WebSocket || fallback)) return;
      user = userId;
      place ??= createPlace(stored((storage, key) => storage.getItem(key)) || null, options.cursor);
      attempts = turn = 0;
      for (const name of WAKES) globalThis.addEventListener?.(name, wake);
      attempt();
      become("connecting");
    },
    disconnect() {
      acknowledge();
      stop("idle");
      stored((storage, key) => storage.removeItem(key));
      place = user = undefined;
    },
    subscribe: (type: string, handler: never) => on(event(type), handler),
    on: (name: string, listener: never) => on(own(name), listener),
    send: (message: unknown) => !!current?.send(message),
  };
  return client as Client<Events>;
};
