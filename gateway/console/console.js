// @ts-check
// The page: what the feed says, drawn once a second, and what operators do.

import { askThenAct, presenceOf, say, setActs } from "./acts.js";
import { element, histogram, line, show } from "./draw.js";
import { follow } from "./feed.js";
import { KEEP_MS, Minute, quantile } from "./minute.js";
import { ago, bytes, lagOf, News, number, SILENT_MS, verdicts } from "./verdicts.js";

/** @typedef {import("./minute.js").Fleet} Fleet */
/** @typedef {import("./minute.js").Relay} Relay */
/** @typedef {import("./minute.js").Replica} Replica */

const part = (/** @type {string} */ name) => /** @type {HTMLElement} */ (document.getElementById(name));
const minute = new Minute();
const news = new News();
const relays = (/** @type {Fleet} */ fleet) => fleet.relays;
const replicas = (/** @type {Fleet} */ fleet) => fleet.replicas;
let isLost = false;

const LEVELS = { ready: "good", starting: "warn", draining: "warn", stalled: "bad", deaf: "bad", away: "bad", silent: "bad", "not heard": "warn" };

/** Without Redis nobody can be heard. @param {Relay | Replica} process */
function stateOf(process) {
  if (process.seen_ms_ago <= SILENT_MS) return process.state;
  return minute.fleets.at(-1)?.redis.up ? "silent" : "not heard";
}

/** @param {Fleet} fleet */
function draw(fleet) {
  const wrong = verdicts(minute);
  drawSummary(wrong);
  part("clock").textContent = new Date(fleet.at_ms).toLocaleTimeString();
  drawTopics(fleet);
  drawRelays(fleet);
  drawRedis(fleet);
  drawReplicas(fleet);
  drawTypes(fleet);
  drawLetters(fleet);
  mark("topics-title", wrong.some((one) => fleet.topics.some(({ topic }) => topic === one.where)) ? "warn" : "");
  mark("relays-title", worst(wrong, (where) => where === "relay" || fleet.relays.some(({ name }) => name === where)));
  mark("redis-title", fleet.redis.up ? "" : "bad");
  mark("replicas-title", worst(wrong, (where) => where === "replicas" || fleet.replicas.some(({ name }) => name === where)));
}

/** @param {import("./verdicts.js").Verdict[]} wrong @param {(where: string) => boolean} isHere */
function worst(wrong, isHere) {
  return wrong.find(({ where }) => isHere(where))?.level ?? "";
}

/** @param {string} title @param {string} level */
function mark(title, level) {
  const stop = /** @type {HTMLElement} */ (part(title).closest(".stop"));
  if (level) stop.dataset.level = level;
  else delete stop.dataset.level;
}

/** @param {import("./verdicts.js").Verdict[]} wrong */
function drawSummary(wrong) {
  const bad = wrong.filter((one) => one.level === "bad").length;
  const level = isLost || bad ? "bad" : wrong.length ? "warn" : "good";
  const summary = part("summary");
  summary.dataset.level = level;
  const text = isLost ? "nothing is heard from this replica" : wrong.length ? (wrong.length === 1 ? "one thing to look at" : `${wrong.length} things to look at`) : "all is well";
  if (summary.textContent !== text) summary.textContent = text;
  const lost = /** @type {import("./verdicts.js").Verdict[]} */ (isLost ? [{ level: "bad", where: "feed", text: "This replica says nothing any more: it has ended, or cannot be reached. What is below is old." }] : []);
  drawVerdicts([...lost, ...wrong]);
}

/** @param {import("./verdicts.js").Verdict[]} wrong */
function drawVerdicts(wrong) {
  show(part("verdicts"), ...wrong.map(({ level, text }) => element("li", { "data-level": level }, text)));
  const text = news.of(wrong);
  if (text) part("news").textContent = text;
}

/** @param {...(Node | string)} cells those behind the first are figures */
function row(...cells) {
  return element("tr", {}, ...cells.map((cell, place) => element("td", place ? { class: "n" } : { class: "name" }, cell)));
}

/** @param {string} state */
function stateShown(state) {
  return element("span", { class: "state", "data-level": LEVELS[/** @type {keyof typeof LEVELS} */ (state)] ?? "warn" }, state);
}

/** @param {Fleet} fleet */
function drawTopics(fleet) {
  const lag = lagOf(fleet.relays);
  show(part("topics"), ...fleet.topics.map(({ topic, audience }) => {
    const rate = minute.rate(relays, (relay) => sum(relay.events[topic]));
    const made = row(topic, number(rate), number(lag[topic] ?? 0));
    made.firstElementChild?.setAttribute("title", `for ${audience === "everyone" ? "everyone" : "one user"}`);
    return made;
  }));
}

/** @param {Fleet} fleet */
function drawRelays(fleet) {
  const published = minute.rate(relays, (relay) => Object.values(relay.events).reduce((all, results) => all + (results.published ?? 0), 0));
  const shown = fleet.relays.map((relay) => element("div", { class: "process" },
    element("span", { class: "name", title: relay.name }, relay.name),
    stateShown(stateOf(relay)),
    stateOf(relay) === "silent" ? fact("last heard", ago(relay.seen_ms_ago)) : fact("partitions", number(relay.partitions)),
  ));
  show(part("relays"), ...(shown.length ? shown : [element("p", { class: "quiet" }, "none is heard")]), fact("published/s", number(published)));
}

/** @param {Fleet} fleet */
function drawRedis({ redis }) {
  show(part("redis"),
    element("span", { class: "state", "data-level": redis.up ? "good" : "bad" }, redis.up ? "answers" : "away"),
    fact("within", redis.ms === null ? "—" : `${number(redis.ms)} ms`),
    element("p", { class: "quiet name", title: redis.address }, redis.address),
  );
}

/** @param {string} what @param {string} value */
function fact(what, value) {
  return element("div", { class: "fact" }, element("span", { class: "quiet" }, what), element("span", {}, value));
}

/** Rows are kept: a button that has the focus would lose it each second. @param {Fleet} fleet */
function drawReplicas(fleet) {
  const body = part("replicas");
  const shown = new Map([...body.children].map((one) => [/** @type {HTMLElement} */ (one).dataset.name, /** @type {HTMLElement} */ (one)]));
  const rows = fleet.replicas.map((replica) => {
    const made = shown.get(replica.name) ?? newReplica(replica);
    const state = stateOf(replica);
    const rate = minute.rate(replicas, (one) => (one.name === replica.name ? sum(one.deliveries) : 0));
    const figures = [number(replica.connections), number(rate), bytes(replica.buffered_bytes), number(replica.closes["4000"] ?? 0)];
    const cells = made.querySelectorAll("td");
    for (const [place, cell] of cells.entries()) {
      if (place === 1) show(cell, stateShown(state));
      else if (place > 1 && place < 6) show(cell, figures[place - 2] ?? "");
    }
    const button = /** @type {HTMLButtonElement} */ (made.querySelector("button"));
    button.disabled = ["draining", "silent", "not heard"].includes(state);
    made.title = state === "silent" ? `last heard ${ago(replica.seen_ms_ago)}` : (replica.reason ?? "");
    return made;
  });
  if (rows.length !== body.children.length || rows.some((one, place) => one !== body.children[place])) body.replaceChildren(...rows);
}

/** @param {Replica} replica */
function newReplica(replica) {
  const drain = element("button", { type: "button", class: "plain", "aria-label": `Drain ${replica.name}` }, "Drain …");
  drain.addEventListener("click", () => askThenAct({
    title: `Drain ${replica.name}?`,
    text: `It takes no new clients, sends its ${number(replica.connections)} elsewhere bit by bit, and ends. Clients of notify.v1 lose nothing.`,
    yes: "Drain it", path: "drain", body: { replica: replica.name },
  }));
  const made = row(`${replica.name} :${replica.address}`, "", "", "", "", "", drain);
  made.dataset.name = replica.name;
  const labels = ["", "", "clients", "delivered/s", "buffered", "slow"];
  for (const [place, cell] of made.querySelectorAll("td").entries()) {
    if (labels[place]) cell.dataset.label = labels[place];
    if (place === 1) cell.className = "state-cell";
  }
  made.firstElementChild?.setAttribute("title", replica.name);
  return made;
}

/** @param {Fleet} fleet */
function drawTypes(fleet) {
  show(part("types"), ...fleet.topics.map(({ type }) => {
    const counts = fleet.latency_bounds_ms.map((_, place) => minute.rise(replicas, (one) => one.latency[type]?.counts[place]));
    counts.push(minute.rise(replicas, (one) => one.latency[type]?.counts[fleet.latency_bounds_ms.length]));
    const series = minute.series(replicas, (one) => one.deliveries[type]);
    const rate = minute.rate(replicas, (one) => one.deliveries[type]);
    const p50 = took(quantile(counts, fleet.latency_bounds_ms, 0.5));
    const p99 = took(quantile(counts, fleet.latency_bounds_ms, 0.99));
    return element("article", { class: "type" },
      element("h3", {}, type, element("span", {}, `${number(rate)}/s delivered`)),
      line(series, KEEP_MS, `${type}: ${number(rate)} deliveries a second now`),
      histogram(counts, fleet.latency_bounds_ms, `${type}: half within ${p50}, 99 of 100 within ${p99}`),
      element("p", { class: "quantiles" }, element("span", { class: "quiet" }, "half within ", strong(p50)), element("span", { class: "quiet" }, "99 % within ", strong(p99))),
    );
  }));
}

/** @param {string} text */
function strong(text) {
  return element("strong", {}, text);
}

/** The classes above are too wide to say more. */
const LATE_MS = 5_000;

/** @param {number | null} ms */
function took(ms) {
  if (ms === null) return "—";
  return ms > LATE_MS ? `over ${LATE_MS / 1_000} s` : ms < 1_000 ? `${number(ms)} ms` : `${number(ms / 1_000)} s`;
}

/** @param {Fleet} fleet */
function drawLetters(fleet) {
  const newest = fleet.relays.flatMap((relay) => relay.dead_letters).sort((a, b) => b.at_ms - a.at_ms).slice(0, 10);
  if (!newest.length) return;
  const head = element("tr", {}, ...["when", "record", "why"].map((name) => element("th", { scope: "col" }, name)));
  const rows = newest.map(({ at_ms, topic, partition, offset, reason }) => element("tr", {},
    ...[new Date(at_ms).toLocaleTimeString(), `${topic}/${partition}/${offset}`, reason].map((text) => element("td", {}, text))));
  show(part("letters"), element("div", { class: "scroll" },
    element("table", { class: "figures" }, element("thead", {}, head), element("tbody", {}, ...rows))));
}

/** @param {Record<string, number> | undefined} counts */
function sum(counts) {
  return Object.values(counts ?? {}).reduce((all, count) => all + count, 0);
}

// Who is connected

part("people").addEventListener("submit", (event) => {
  event.preventDefault();
  look(/** @type {HTMLInputElement} */ (part("user")).value);
});

/** @param {string} user */
async function look(user) {
  try {
    const found = await presenceOf(user);
    if (found) drawPresence(user, found);
  } catch (error) {
    part("presence").replaceChildren(element("p", { class: "said" }, error instanceof Error ? error.message : String(error)));
  }
}

/** @param {string} user @param {Record<string, {connections: number, opened_ms: number[]}>} found */
function drawPresence(user, found) {
  const shares = Object.entries(found).sort(([one], [other]) => one.localeCompare(other));
  const act = (/** @type {string} */ label, /** @type {Parameters<typeof askThenAct>[0]} */ act) => {
    const button = element("button", { type: "button" }, label);
    button.addEventListener("click", async () => (await askThenAct(act)) && look(user));
    return button;
  };
  const buttons = element("p", { class: "row" },
    act("Disconnect …", { title: `Disconnect ${user}?`, text: "The clients are told to come back, and do.", yes: "Disconnect", path: "disconnect", body: { user_id: user, retry: true } }),
    act("For good …", { title: `Disconnect ${user} for good?`, text: "The clients are told not to come back by themselves (4501). A page that is loaded again connects.", yes: "Disconnect for good", path: "disconnect", body: { user_id: user, retry: false } }),
    act("Revoke tokens …", { title: `Revoke the tokens of ${user}?`, text: "Tokens issued until now are refused everywhere within a second or two, and their connections are closed.", yes: "Revoke", path: "revoke", body: { user_id: user } }));
  if (!shares.length) {
    part("presence").replaceChildren(element("p", {}, `${user} is not connected.`), buttons);
    return;
  }
  const rows = shares.map(([name, { connections, opened_ms }]) =>
    row(name, number(connections), opened_ms.length ? new Date(Math.min(...opened_ms)).toLocaleString() : ""));
  const head = element("tr", {}, ...["replica", "connections", "since"].map((name) => element("th", { scope: "col" }, name)));
  part("presence").replaceChildren(
    element("div", { class: "scroll" }, element("table", { class: "figures" }, element("thead", {}, head), element("tbody", {}, ...rows))), buttons);
}

part("everyone").addEventListener("click", () => askThenAct({
  title: "Send everybody away?",
  text: "All clients of all replicas are told to connect again, bit by bit. Do it to have new replicas get their share.",
  yes: "Send them away", path: "disconnect", body: { everyone: true, retry: true },
}));

part("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(part("redrive").textContent ?? "");
  say("Copied.");
});

// The start

/** @returns {Promise<{service: string, acts: string, demo: string | null, redrive: string}>} */
async function configuration() {
  for (;;) {
    try {
      const response = await fetch("config");
      if (response.ok) return await response.json();
    } catch {
      // The replica ended between the page and this; another may come in its place.
    }
    await new Promise((resolve) => setTimeout(resolve, 1_000));
  }
}

const config = await configuration();
document.title = `${config.service} console`;
part("service").textContent = config.service;
part("redrive").textContent = config.redrive;
setActs(config.acts);
follow((fleet) => {
  minute.add(fleet);
  draw(fleet);
}, (lost) => {
  isLost = lost;
  drawSummary(verdicts(minute));
});
if (config.demo) (await import("./demo.js")).start(config.demo);
