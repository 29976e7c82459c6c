// @ts-check
// What operators do: each act asks first, says what came of it, and keeps the token in this page only.

const ask = /** @type {HTMLDialogElement} */ (document.getElementById("ask"));
const part = (/** @type {string} */ name) => /** @type {HTMLElement} */ (document.getElementById(name));

let acts = "off";
let token = "";

/** @param {string} how `open`, `token` or `off` */
export function setActs(how) {
  acts = how;
}

/**
 * POST to the admin port.
 * @param {string} path
 * @param {unknown} body
 * @returns {Promise<any>} throws an Error whose message says what to do
 */
async function post(path, body) {
  /** @type {Record<string, string>} */
  const headers = { "Content-Type": "application/json", "X-Notify-Admin": "1" };
  if (token) headers.Authorization = `Bearer ${token}`;
  const response = await fetch(`/admin/${path}`, {
    method: "POST", headers, body: JSON.stringify(body), credentials: "omit", signal: AbortSignal.timeout(35_000),
  });
  const answer = await response.json().catch(() => ({ message: `The replica answered ${response.status}.` }));
  if (!response.ok) {
    if (response.status === 401) token = "";
    throw new Error(answer.message);
  }
  return answer;
}

/**
 * Ask, do it when it is confirmed, and say what came of it.
 * @param {{title: string, text: string, yes: string, path: string, body: unknown}} act
 * @returns {Promise<any>} the answer; null when it was left
 */
export function askThenAct({ title, text, yes, path, body }) {
  part("ask-title").textContent = title;
  part("ask-text").textContent = text;
  part("ask-said").textContent = acts === "off" ? "Nobody may act here: ADMIN_TOKEN is not set on this replica." : "";
  const field = /** @type {HTMLInputElement} */ (part("token"));
  part("ask-token").hidden = acts !== "token" || token !== "";
  const button = /** @type {HTMLButtonElement} */ (part("ask-yes"));
  button.textContent = yes;
  button.disabled = acts === "off";
  return new Promise((resolve) => {
    button.onclick = async (event) => {
      event.preventDefault();
      if (field.value) token = field.value;
      field.value = "";
      button.disabled = true;
      try {
        const answer = await post(path, body);
        ask.close("yes");
        if (answer.done) say(`${answer.done[0].toUpperCase()}${answer.done.slice(1)}.`);
        resolve(answer);
      } catch (error) {
        part("ask-said").textContent = error instanceof Error ? error.message : String(error);
        part("ask-token").hidden = acts !== "token" || token !== "";
        button.disabled = false;
      }
    };
    ask.onclose = () => {
      field.value = "";
      resolve(null);
    };
    ask.showModal();
  });
}

/**
 * A user's connections, by replica. Needs no confirmation, unless a token is to be given first.
 * @param {string} user
 * @returns {Promise<Record<string, {connections: number, opened_ms: number[]}> | null>} null when it was left
 */
export async function presenceOf(user) {
  const path = "presence";
  const body = { user_id: user };
  if (acts === "token" && !token) {
    const title = `Where is ${user}?`;
    const text = "Who is connected is for operators.";
    return (await askThenAct({ title, text, yes: "Look", path, body }))?.replicas ?? null;
  }
  return (await post(path, body)).replicas;
}

/** @param {string} text */
export function say(text) {
  part("said").textContent = text;
  clearTimeout(said);
  said = setTimeout(() => (part("said").textContent = ""), 8_000);
}
/** @type {ReturnType<typeof setTimeout> | undefined} */
let said;
