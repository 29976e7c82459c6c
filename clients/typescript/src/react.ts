// Hooks. With "use client", since they are none of a server component's.
"use client";

import { useEffect, useRef, useSyncExternalStore } from "react";
import { wsClient, type Client, type EventTypes, type Message, type State } from "./index.js";

type Handler<Events, Type> = Type extends "*"
  ? (message: Message<Events>) => void
  : Type extends keyof Events
    ? (data: Events[Type], message: Extract<Message<Events>, { type: Type }>) => void
    : never;

/** `client.subscribe` while the component is mounted: always the handler of the last render, without subscribing
 * anew. Connecting is the page's business. */
export const useNotification = <Type extends (keyof Events & string) | "*", Events = EventTypes>(
  type: Type,
  handler: Handler<Events, Type>,
  client: Client<Events> = wsClient as Client<unknown> as Client<Events>,
): void => {
  const latest = useRef<(...what: never[]) => void>(handler);
  useEffect(() => {
    latest.current = handler;
  });
  useEffect(() => {
    const hear = (...what: unknown[]) => latest.current(...(what as never[]));
    return client.subscribe(type as string, hear);
  }, [client, type]);
};

/** The client's state; `idle` while a server renders. */
export const useConnectionState = (client: Pick<Client<never>, "state" | "on"> = wsClient): State =>
  useSyncExternalStore(
    (changed) => client.on("state", changed),
    () => client.state,
    () => "idle",
  );
