// A plain WebSocket client that prints what happens, a JSON line each. Ends with its standard input.
// node ws_client.mjs <path of ws> <url>
const { default: WebSocket } = await import(process.argv[2]);
const say = (what) => process.stdout.write(JSON.stringify(what) + "\n");
const socket = new WebSocket(process.argv[3]);
socket.on("open", () => say({ open: socket.extensions }));
socket.on("message", (data, isBinary) =>
  say(isBinary ? { code: -1, reason: "binary message" } : { text: data.toString("base64") }));
socket.on("error", (error) => say({ code: 1006, reason: String(error) }));
socket.on("close", (code, reason) => {
  say({ code, reason: reason.toString() });
  process.exit(0);
});
process.stdin.on("end", () => socket.terminate()).resume();
