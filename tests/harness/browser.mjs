// A page in Chromium, and what happens in it as a JSON line each. Ends with its standard input.
// node browser.mjs <path of playwright-core> <path of chromium> <URL of the page>
// On its input, a JSON line each: {"offline": true}
import { createInterface } from "node:readline";

const [playwright, executablePath, url] = process.argv.slice(2);
const { chromium } = (await import(playwright)).default;
const say = (what) => process.stdout.write(JSON.stringify(what) + "\n");
const server = await chromium.launchServer({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
});
const pid = server.process().pid;
// A process of its own and all below it, stopped or not.
const end = () => {
  try {
    process.kill(-pid, "SIGKILL");
  } finally {
    process.exit(0);
  }
};
const lines = createInterface({ input: process.stdin });
lines.on("close", end);

const context = await (await chromium.connect(server.wsEndpoint())).newContext();
const page = await context.newPage();
await page.exposeFunction("say", say);
page.on("pageerror", (error) => say({ error: String(error) }));
await page.goto(url);
say({ pid });

for await (const line of lines) {
  await context.setOffline(JSON.parse(line).offline);
  say({ done: line });
}
