// What a page sees: events, states, errors, options.

/** A broad change of the market's regime. Producers add fields without telling anyone. */
export interface RegimeChange {
  new_regime: string;
  previous_regime?: string | null;
  confidence: number;
  timestamp: string;
  [more: string]: unknown;
}

export interface MarketAlert {
  alert_type: string;
  severity: string;
  message: string;
  timestamp: string;
  [more: string]: unknown;
}

export interface RiskAlert {
  user_id: string | number;
  alert_type?: string;
  risk_type?: string;
  severity: string;
  message: string;
  portfolio_id?: string | null;
  timestamp: string;
  [more: string]: unknown;
}

/** Quantities and prices are strings. */
export interface OrderExecuted {
  user_id: string | number;
  order_id: string;
  symbol: string;
  side: string;
  qty: string;
  filled_qty: string;
  filled_avg_price?: string | null;
  status: string;
  timestamp: string;
  [more: string]: unknown;
}

/** The data of each event type. Extend it where it is declared (`declare module "@bloasis/notify"`), or give
 * `createClient` a map of your own. */
export interface EventTypes {
  regime_change: RegimeChange;
  market_alert: MarketAlert;
  risk_alert: RiskAlert;
  order_executed: OrderExecuted;
}

/** An event as it came; `type` tells which data it has. */
export type Message<Events = EventTypes> = {
  [Type in keyof Events & string]: {
    type: Type;
    data: Events[Type];
    /** Its place in Redpanda, `risk-events/2/1841`; it never changes. */
    id: string;
    stream: "global" | "user";
    /** With `seq` its place in the stream; empty, and 0, where that is not told: of a snapshot over server-sent events. */
    epoch: string;
    seq: number;
    /** The record's time in Unix milliseconds. */
    ts: number;
    /** Brought by `snapshot`: the newest of its type, older than where the connection begins. */
    snapshot?: true;
  };
}[keyof Events & string];

/** idle: nobody wants a connection. connecting: the first one is not there yet. reconnecting: it was there.
 * closed: the server ended it for good and said why; `connect` tries again. */
export type State = "idle" | "connecting" | "open" | "reconnecting" | "closed";

/** Something of this stream may be missing: read your state anew. What the service still has follows, without what
 * came before. */
export interface Gap {
  stream: "global" | "user";
  reason: "trimmed" | "unknown_cursor" | "unknown_epoch" | "gap";
}

/** The page was too slow for a type of which the newest is enough (the service's CONFLATE): up to its next event so
 * many were left out. */
export interface Conflated {
  stream: "global" | "user";
  type: string;
  dropped: number;
}

export interface Listeners {
  /** `reason` is the server's, where it ended the connection. */
  state: (state: State, reason: string) => void;
  gap: (gap: Gap) => void;
  conflated: (conflated: Conflated) => void;
  /** What a handler threw, a token that failed, an error that the server named. Without a listener errors go to
   * `reportError`, or to the console. */
  error: (error: unknown) => void;
}

/** Where the place is kept between pages: `sessionStorage`, `localStorage`, or anything like them. */
export type PlaceStorage = Pick<Storage, "getItem" | "setItem" | "removeItem">;

export interface ClientOptions {
  /** The service's `/ws`; relative to the page, http(s) or ws(s). A function is asked at each attempt. */
  url: string | (() => string);
  /** Who connects, where `connect` does not say. May be left out with a token. */
  userId?: string;
  /** A fresh token: asked for at each attempt, and before the last one ends. */
  token?: () => Promise<string> | string;
  /** Only these types. */
  types?: readonly string[];
  /** First the newest message of each broadcast type. */
  snapshot?: boolean;
  /** Acknowledge what was handled, under this name, at most once a second. */
  device?: string;
  /** Where the first connection begins when no place is stored: a cursor of `/position`, or `ack` for what `device`
   * acknowledged last. */
  cursor?: string;
  /** The place is kept in memory only without. */
  storage?: PlaceStorage;
  /** Tried when two WebSockets in a row have failed, and kept to while it works: `serverSentEvents()` of
   * `@bloasis/notify/sse`. */
  fallback?: Transport;
}

export interface Client<Events = EventTypes> {
  readonly state: State;
  /** Connect, and stay connected. Does nothing when it does already; another user's connection ends first. Without a
   * WebSocket (on a server) nothing happens. */
  connect(userId?: string): void;
  /** End, and forget the place. Subscriptions stay. */
  disconnect(): void;
  /** Call `handler` with the data of each event of this type, or with each message (`*`), in order. Gives the way to
   * end that. What a handler throws is reported, and the others go on. */
  subscribe(type: "*", handler: (message: Message<Events>) => void): () => void;
  subscribe<Type extends keyof Events & string>(
    type: Type,
    handler: (data: Events[Type], message: Extract<Message<Events>, { type: Type }>) => void,
  ): () => void;
  subscribe(type: string, handler: (data: unknown) => void): () => void;
  /** Hear of states, gaps, what was left out, and errors. Gives the way to end that. */
  on<Name extends keyof Listeners>(name: Name, listener: Listeners[Name]): () => void;
  /** Send JSON to the service, which takes control frames. False when there is no connection to take it. */
  send(message: unknown): boolean;
}

/** A connection of whatever kind that carries frames of notify.v1. */
export interface Wire {
  /** False when it cannot: it is not open, or carries nothing in this direction. */
  send(text: string): boolean;
  close(): void;
}

/** Opens a wire. `url` is `ws(s)://.../ws?...`. May throw; tells of its end once, with a close code (RFC 6455 section
 * 7.4) and reason. One that is second best may say `going_away` with `better: true`: then a WebSocket is tried. */
export type Transport = (
  url: string,
  token: string | undefined,
  on: { message(text: string): void; close(code: number, reason: string): void },
) => Wire;
