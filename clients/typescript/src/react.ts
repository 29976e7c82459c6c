// Hooks. With "use client", since they are none of a server component's.
"use client";

import { useEffect, useRef, useSyncExternalStore } from "react";
import { wsClient, type Client, type EventTypes, type Message, type State } from "./index.js";

/** Call `handler` with the data of each event of a type while the component is mounted: always the handler of the
 * last render, without subscribing anew. Connecting is the page's business. */
export const useNotification = <Type extends keyof Events & string, Events = EventTypes>(
  type: Type,
  handler: (data: Events[Type], message: Extract<Message<Events>, { type: Type }>) => void,
  client: Client<Events> = wsClient as Client<unknown> as Client<Events>,
): void => {
  const latest = useRef(handler);
  useEffect(() => {
    latest.current = handler;
  });
  useEffect(() => client.subscribe(type, (data, message) => latest.current(data, message)), [client, type]);
};

/** The client's state; `idle` while a server renders. */
export const useConnectionState = (client: Pick<Client<never>, "state" | "on"> = wsClient): State =>
  useSyncExternalStore(
    (changed) => client.on("state", changed),
    () => client.state,
    () => "idle",
  );
