import type { Transport } from "./types.js";

/** A browser's WebSocket can send no header, so a token is offered as a subprotocol. */
export const webSocket: Transport = (url, token, on) => {
  const socket = new WebSocket(url, token ? ["notify.v1", "bearer." + token] : ["notify.v1"]);
  socket.onmessage = ({ data }) => on.message(data);
  socket.onclose = ({ code, reason }) => on.close(code, reason);
  // The close that follows says more; but what listens to no error throws it, outside browsers.
  socket.onerror = () => {};
  return {
    // `send` throws while it connects, and drops silently when it has ended.
    send: (text) => socket.readyState === 1 && (socket.send(text), true),
    close: () => socket.close(),
  };
};
