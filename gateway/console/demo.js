// @ts-check
// The demo's part of the page: clients of the real library, events sent, things broken.

import { say } from "./acts.js";
import { createClient } from "./client.js";
import { element, show } from "./draw.js";
import { gotOf, Tally } from "./tally.js";
import { number } from "./verdicts.js";

/** @typedef {{users: string[], replicas: {name: string, ws: string, running: boolean}[],
 *   relay: {running: boolean, starts_in_s: number | null}, redis: {cut_for_s: number | null},
 *   slow: null | {replica: string, closed: boolean, seconds: number}}} State */

const part = (/** @type {string} */ name) => /** @type {HTMLElement} */ (document.getElementById(name));
const TYPES = { regime_change: false, market_alert: false, risk_alert: true, order_executed: true };
const POLL_MS = 1_000;
const CONNECTING_AT_ONCE = 4;

const tally = new Tally();
/** `isIn`: it was connected once, and is owed what is sent from then on. @type {{name: string, user: string,
 * client: ReturnType<typeof createClient>, item: HTMLElement, isIn: boolean}[]} */
const clients = [];
/** @type {State | undefined} */
let state;
let address = "";
let numbers = 0;

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

/** @param {string} path @param {unknown} body @returns {Promise<any>} null when it was not done, and why was said */
async function post(path, body) {
  try {
    const response = await fetch(`${address}/${path}`, {
      method: "POST", headers: { "Content-Type": "application/json", "X-Notify-Demo": "1" }, body: JSON.stringify(body),
      signal: AbortSignal.timeout(15_000),
    });
    const answer = await response.json();
    if (response.ok) return answer;
    say(answer.message);
  } catch (error) {
    say(`The demo does not answer: ${error instanceof Error ? error.message : error}`);
  } finally {
    poll();
  }
  return null;
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
async function send(type) {
  const isForOne = TYPES[/** @type {keyof typeof TYPES} */ (type)];
  const user = isForOne ? /** @type {HTMLSelectElement} */ (part("receiver")).value : null;
  const owed = clients.filter((one) => one.isIn && (user === null || one.user === user)).map(({ name }) => name);
  const event_id = crypto.randomUUID();
  const answer = await post("send", user === null ? { type, event_id } : { type, user, event_id });
  if (answer) tally.sent({ id: answer.id, type, user }, owed, Date.now());
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
  connectSome();
}

/** A few at a time: a browser has those of more wait for seconds. */
function connectSome() {
  let connecting = clients.filter(({ client }) => client.state === "connecting").length;
  for (const { client } of clients) {
    if (connecting >= CONNECTING_AT_ONCE) return;
    if (client.state !== "idle") continue;
    client.connect();
    connecting += 1;
  }
}

function newClient() {
  const number = numbers++;
  const users = state?.users ?? [];
  const user = users[number % users.length] ?? "";
  const name = `client ${number + 1}`;
  let attempt = Math.floor(number / users.length); // each user's on all replicas
  const client = createClient({
    userId: user,
    url: () => {
      const running = (state?.replicas ?? []).filter((replica) => replica.running);
      const all = running.length ? running : (state?.replicas ?? []);
      return all[attempt++ % all.length]?.ws ?? "";
    },
  });
  const item = element("li", { title: `${name}: ${user}` });
  const made = { name, user, client, item, isIn: false };
  client.on("state", (/** @type {string} */ now, /** @type {string} */ reason) => {
    made.isIn ||= now === "open";
    if (now === "open") connectSome();
    item.dataset.state = now;
    item.title = `${name}: ${user}, ${now}${reason ? ` (${reason})` : ""}`;
  });
  client.on("gap", () => tally.missed());
  client.on("error", (/** @type {unknown} */ error) => console.warn(name, error));
  client.subscribe("*", (/** @type {import("./tally.js").Event} */ message) => tally.took(name, message, Date.now()));
  part("clients").append(item);
  return made;
}

// What is shown

function draw() {
  part("received").textContent = tally.received.toLocaleString("en");
  for (const [name, count] of Object.entries({ gaps: tally.gaps, doubled: tally.doubled, disordered: tally.disordered })) {
    part(name).textContent = number(count);
    part(name).dataset.zero = String(count === 0);
  }
  if (tally.newest.length) show(part("events"), ...tally.newest.map((sent) => {
    const [got, owed] = [gotOf(sent), sent.owed.size];
    return element("tr", {}, ...[
      element("td", {}, `${sent.type} `, element("span", { class: "quiet" }, sent.id)),
      element("td", {}, sent.user ?? "everyone"),
      element("td", {}, element("span", { class: "state", "data-level": got === owed ? "good" : "warn" }, `${got} of ${owed}`)),
      element("td", { class: "n" }, sent.last_ms === null ? "waits" : `${number(sent.last_ms)} ms`),
    ]);
  }));
  const [last] = tally.newest;
  if (last) for (const { name, item } of clients) {
    item.dataset.last = last.got.has(name) ? "got" : last.owed.has(name) ? "waits" : "not-for";
  }
  const open = clients.filter(({ client }) => client.state === "open").length;
  const text = open === clients.length ? `${open} are connected` : `${open} of ${clients.length} are connected`;
  if (part("open").textContent !== text) part("open").textContent = text;
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
