// One connection for all tabs of a browser that are the same user's.

import { createEmitter, event, own } from "./emitter.js";
import { createClient } from "./index.js";
import { createPlace, type Place } from "./place.js";
import type { Client, ClientOptions, Conflated, EventTypes, Gap, Message, State } from "./types.js";
import { createWatchdog, type Watchdog } from "./watchdog.js";

/** Half as long again without a word from the tab that leads, and it is asked. */
const HEARTBEAT_MS = 10_000;

/** What the tab that leads tells the others; `saved` is its place after it. */
type News =
  | { events: Message[]; saved: string }
  | { gap: Gap }
  | { conflated: Conflated }
  | { state: State; reason: string; saved?: string | undefined };
/** What the others ask of it: whether it is there, or to send something. */
type Asked = { hello: true } | { send: unknown };

/** As `createClient`, with one connection for all tabs. The tab that holds a lock (Web Locks) leads: it has the
 * connection and tells the others (BroadcastChannel). When it goes, another one leads and resumes from the place that
 * all of them know; when it is frozen, a visible one takes the lock from it. Each tab drops what it had already.
 *
 * `connect` takes a user id, also with a token: it says which tabs belong together; it throws a TypeError without. A
 * tab that joins gets what comes from then on, and no snapshot. Where a browser has neither locks nor channels (a
 * page without TLS), each tab has a connection of its own. */
export const createSharedClient = <Events = EventTypes>(options: ClientOptions): Client<Events> => {
  const { locks } = globalThis.navigator ?? {};
  if (!locks || !globalThis.BroadcastChannel) return createClient<Events>(options);

  const { on, emit, error } = createEmitter();
  let state: State = "idle";
  let user: string | undefined;
  let tab: Tab | undefined;

  const become = (now: State, reason: string) => {
    if (state === now) return;
    state = now;
    emit(own("state"), state, reason);
  };
  const hears: Hears = {
    event(message) {
      emit(event(message.type), message.data, message);
      emit(event("*"), message);
    },
    gap: (gap) => emit(own("gap"), gap),
    conflated: (conflated) => emit(own("conflated"), conflated),
    error,
    state(now, reason) {
      if (now == "closed") leave();
      become(now, reason);
    },
  };
  const leave = () => {
    tab?.leave();
    tab = undefined;
  };

  const client = {
    get state() {
      return state;
    },
    connect(userId: string | undefined = options.userId ?? user) {
      if (userId !== user) client.disconnect();
      if (tab) return;
      if (userId === undefined) throw new TypeError("connect(userId): tabs share a connection of one user");
      user = userId;
      tab = join({ ...options, userId }, hears);
      become("connecting", "");
    },
    disconnect() {
      leave();
      user = undefined;
      become("idle", "");
    },
    subscribe: (type: string, handler: never) => on(event(type), handler),
    on: (name: string, listener: never) => on(own(name), listener),
    send: (message: unknown) => !!tab?.send(message),
  };
  return client as Client<Events>;
};

interface Hears {
  event(message: Message): void;
  gap(gap: Gap): void;
  conflated(conflated: Conflated): void;
  error(error: unknown): void;
  state(state: State, reason: string): void;
}

interface Tab {
  send(message: unknown): boolean;
  leave(): void;
}

/** One tab's part, from `connect` to its end. */
const join = (options: ClientOptions, hears: Hears): Tab => {
  const address = typeof options.url == "function" ? options.url() : options.url;
  const name = "notify:" + JSON.stringify([address, options.userId, options.types, options.device]);
  const channel = new BroadcastChannel(name);
  let waiting = new AbortController();
  let hasLeft = false;
  let state: State = "connecting";
  let saved: string | undefined;
  const place: Place = createPlace();
  let leader: Client | undefined;
  let resign = () => {};

  // What comes, from whoever leads

  const take = (news: News) => {
    if ("events" in news) {
      for (const message of news.events) if (place.takes(message)) hears.event(message);
      saved = news.saved;
    } else if ("gap" in news) {
      place.resync(news.gap.stream);
      hears.gap(news.gap);
    } else if ("conflated" in news) hears.conflated(news.conflated);
    else {
      saved ??= news.saved;
      state = news.state;
      hears.state(state, news.reason);
    }
  };
  const tell = (news: News) => {
    channel.postMessage(news);
    take(news);
  };
  channel.onmessage = ({ data }: MessageEvent<News | Asked>) => {
    if ("hello" in data) {
      if (leader) channel.postMessage({ state, reason: "", saved } satisfies News);
    } else if ("send" in data) leader?.send(data.send);
    else {
      watchdog?.heard();
      take(data);
    }
  };

  // To lead

  const lead = (): Promise<void> => {
    watchdog?.stop();
    const { storage } = options;
    let events: Message[] = [];
    // The client writes its place after each event and each heartbeat: that is told together.
    const shared = {
      getItem: (key: string) => saved ?? storage?.getItem(key) ?? null,
      setItem(key: string, now: string) {
        const news = { events, saved: now };
        events = [];
        tell(news);
        storage?.setItem(key, now); // which may throw
      },
      removeItem: (key: string) => storage?.removeItem(key),
    };
    const client = (leader = createClient({ ...options, storage: shared }));
    client.subscribe("*", (message) => events.push(message));
    client.on("gap", (gap) => tell({ gap }));
    client.on("conflated", (conflated) => tell({ conflated }));
    client.on("error", hears.error);
    // Its end here, because another tab leads, is not the others' end.
    client.on("state", (state, reason) => client == leader && tell({ state, reason, saved }));
    client.connect();
    return new Promise((resolve) => (resign = resolve));
  };
  const stepDown = () => {
    const was = leader;
    leader = undefined;
    was?.disconnect();
  };
  const follow = () => {
    stepDown();
    if (hasLeft) return;
    waiting = new AbortController();
    request({ signal: waiting.signal });
    channel.postMessage({ hello: true });
    watch();
  };
  const request = (how: LockOptions) =>
    navigator.locks
      .request(name, how, lead)
      // Taken by a tab that is seen; or given up here.
      .catch(() => how.signal?.aborted || follow());
  const steal = () => {
    waiting.abort();
    request({ steal: true });
  };

  // To follow

  let watchdog: Watchdog | undefined;
  const watch = () => {
    watchdog = createWatchdog(
      () => channel.postMessage({ hello: true }),
      () => (document.visibilityState == "visible" ? steal() : watch()),
    );
    watchdog.watch(HEARTBEAT_MS);
  };
  const seen = () => watchdog?.probe();
  addEventListener("visibilitychange", seen);
  follow();

  return {
    send: (message) => {
      if (leader) return leader.send(message);
      channel.postMessage({ send: message });
      return state == "open";
    },
    leave() {
      hasLeft = true;
      waiting.abort();
      removeEventListener("visibilitychange", seen);
      watchdog?.stop();
      stepDown();
      channel.close();
      resign();
    },
  };
};
