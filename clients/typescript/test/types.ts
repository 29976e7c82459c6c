// What a page may write and what it may not: checked by `npm run check`, never run.

import { createClient, wsClient, type EventTypes, type Message } from "@bloasis/notify";
import { useConnectionState, useNotification } from "@bloasis/notify/react";
import { serverSentEvents } from "@bloasis/notify/sse";
import { createSharedClient } from "@bloasis/notify/tabs";

declare module "@bloasis/notify" {
  interface EventTypes {
    margin_call: { amount: string };
  }
}

wsClient.subscribe("margin_call", ({ amount }) => amount.trim());
wsClient.subscribe("regime_change", (data, message) => [data.confidence.toFixed(), message.type satisfies "regime_change"]);
wsClient.subscribe("*", (message) => message.type === "order_executed" && message.data.qty.trim());
// @ts-expect-error: a number is no string
wsClient.subscribe("regime_change", (data) => data.confidence.trim());

// As the old client was used: any string, and handlers of what is not known.
const type: string = "risk_alert";
const handler: (data: unknown) => void = () => {};
const unsubscribe: () => void = wsClient.subscribe(type, handler);
wsClient.send({ anything: unsubscribe });

type Mine = EventTypes & { beta: { x: number } };
const mine = createClient<Mine>({ url: "wss://gateway.example/ws", fallback: serverSentEvents() });
mine.subscribe("beta", ({ x }) => x.toFixed());
const shared = createSharedClient<Mine>({ url: () => "/ws", userId: "ann", token: async () => "token" });

export const Component = (): string => {
  useNotification("order_executed", ({ symbol }, { seq }) => [symbol.trim(), seq.toFixed()]);
  useNotification("*", (message: Message) => message.id);
  useNotification("beta", ({ x }) => x.toFixed(), mine);
  // @ts-expect-error: there is no such event
  useNotification("gamma", () => {});
  return useConnectionState() + useConnectionState(shared);
};
