// The demo's part of the page: clients of the real library, events sent, things broken.

import { say } from "./acts.js";
import { createClient } from "./client.js";
import { element } from "./draw.js";
import { Tally } from "./tally.js";
import { number } from "./verdicts.js";

/** @typedef {{users: string[], replicas: {name: string, ws: string, running: boolean}[],
 *   relay: {running: boolean, starts_in_s: number | null}, redis: {cut_for_s: number | null},
 *   slow: null | {replica: string, closed: boolean, seconds: number}}} State */

const part = (/** @type {string} */ name) => /** @type {HTMLElement} */ (document.getElementById(name));
const TYPES = { regime_change: false, market_alert: false, risk_alert: true, order_executed: true };
const POLL_MS = 1_000;

const tally = new Tally();
/** @type {{name: string, user: string, client: ReturnType<typeof createClient>, item: HTMLElement}[]} */
const clients = [];
/** Ids of events sent from here. @type {Set<string>} */
const sent = new Set();
/** @type {State | undefined} */
let state;
let address = "";
let made = 0;

/** @param {string} demo the address of the demo's controls */
export async function start(demo) {
  address = demo;
  await poll();
  part("demo").hidden = false;
  for (const type of Object.keys(TYPES)) {
    const button = element("button", { type: "button" }, type);
    button.addEventListener("click", () => send(type));
    part("senders").append(button);
  }
  part("receiver").replaceChildren(...(state?.users ?? []).map((user) => element("option", {}, user)));
  part("set-count").addEventListener("click", () => setCount(Number(/** @type {HTMLInputElement} */ (part("count")).value)));
  for (const button of document.querySelectorAll("[data-break]")) {
    button.addEventListener("click", () => breakIt(/** @type {HTMLElement} */ (button).dataset.break ?? ""));
  }
  for (const { name } of state?.replicas ?? []) {
    const button = element("button", { type: "button" }, `Drain ${name}`);
    button.addEventListener("click", () => post("replica", { name, action: "drain" }));
    part("drains").append(button, " ");
  }
  setCount(12);
  setInterval(poll, POLL_MS);
  setInterval(draw, 250);
}

/** @param {string} path @param {unknown} body */
async function post(path, body) {
  try {
    const response = await fetch(`${address}/${path}`, {
      method: "POST", headers: { "Content-Type": "application/json", "X-Notify-Demo": "1" }, body: JSON.stringify(body),
      signal: AbortSignal.timeout(15_000),
    });
    if (!response.ok) say((await response.json()).message);
  } catch (error) {
    say(`The demo does not answer: ${error instanceof Error ? error.message : error}`);
  }
  await poll();
}

async function poll() {
  try {
    state = await (await fetch(`${address}/state`, { signal: AbortSignal.timeout(5_000) })).json();
  } catch {
    state = undefined;
  }
  drawBroken();
}

/** @param {string} type */
function send(type) {
  const user = /** @type {HTMLSelectElement} */ (part("receiver")).value;
  const event_id = crypto.randomUUID();
  sent.add(event_id);
  return post("send", TYPES[/** @type {keyof typeof TYPES} */ (type)] ? { type, user, event_id } : { type, event_id });
}

/** @param {string} what */
function breakIt(what) {
  if (what === "relay") return post("relay", { action: "kill" });
  if (what === "redis") return post("redis", { seconds: 5 });
  return post("slow", {});
}

// Clients

/** @param {number} count */
function setCount(count) {
  const wanted = Math.max(0, Math.min(200, Math.floor(count) || 0));
  while (clients.length > wanted) {
    const { name, client, item } = /** @type {typeof clients[number]} */ (clients.pop());
    client.disconnect();
    tally.left(name);
    item.remove();
  }
  while (clients.length < wanted) clients.push(newClient());
}

function newClient() {
  const number = made++;
  const users = state?.users ?? [];
  const user = users[number % users.length];
  const name = `client ${number + 1}`;
  let attempt = number;
  const client = createClient({
    userId: user,
    url: () => {
      const running = (state?.replicas ?? []).filter((replica) => replica.running);
      const all = running.length ? running : (state?.replicas ?? []);
      return all[attempt++ % all.length].ws;
    },
  });
  const item = element("li", { title: `${name}: ${user}` }, String(number + 1));
  client.on("state", (now, reason) => {
    item.dataset.state = now;
    item.title = `${name}: ${user}, ${now}${reason ? ` (${reason})` : ""}`;
  });
  client.on("gap", () => (tally.gaps += 1));
  client.on("error", (error) => console.warn(name, error));
  client.subscribe("*", (message) => {
    const isUsers = message.stream === "user";
    const expected = isUsers ? clients.filter((one) => one.user === user).length : clients.length;
    const { id = "", type, ts = 0 } = message;
    const isShown = sent.has(String(message.data.event_id));
    tally.took(name, { id, type, user: isUsers ? user : null, ts, isShown }, expected, Date.now());
    item.classList.add("got");
    setTimeout(() => item.classList.remove("got"), 600);
  });
  part("clients").append(item);
  client.connect();
  return { name, user, client, item };
}

// What is shown

function draw() {
  part("received").textContent = tally.received.toLocaleString("en");
  for (const [name, count] of Object.entries({ gaps: tally.gaps, doubled: tally.doubled, disordered: tally.disordered })) {
    part(name).textContent = number(count);
    part(name).dataset.zero = String(count === 0);
  }
  if (tally.newest.length) part("events").replaceChildren(...tally.newest.map((seen) => {
    const isWhole = seen.got >= seen.expected;
    return element("tr", {}, ...[
      element("td", {}, `${seen.type} `, element("span", { class: "quiet" }, seen.id)),
      element("td", {}, seen.user ?? "everyone"),
      element("td", {}, element("span", { class: "state", "data-level": isWhole ? "good" : "warn" }, `${seen.got} of ${seen.expected}`)),
      element("td", { class: "n" }, `${number(seen.last_ms)} ms`),
    ]);
  }));
}

function drawBroken() {
  const said = [];
  if (!state) said.push("The demo does not answer: it has ended.");
  if (state && !state.relay.running) said.push(`The relay is dead${state.relay.starts_in_s === null ? "" : `; it is started again in ${Math.ceil(state.relay.starts_in_s)} s`}.`);
  if (state && state.redis.cut_for_s !== null) said.push(`Redis is cut off for ${Math.ceil(state.redis.cut_for_s)} s more.`);
  for (const replica of state?.replicas ?? []) if (!replica.running) said.push(`${replica.name} is down.`);
  if (state?.slow) said.push(`${state.slow.closed ? "The slow client was closed after" : `A client of ${state.slow.replica} reads nothing for`} ${Math.ceil(state.slow.seconds)} s.`);
  const text = said.join(" ") || "Nothing is broken.";
  if (part("broken").textContent !== text) part("broken").textContent = text;
}
