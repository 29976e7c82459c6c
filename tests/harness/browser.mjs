// A page in Chromium, and what happens in it as a JSON line each. Ends with its standard input.
// node browser.mjs <path of playwright-core> <path of chromium> <URL of the page>
// On its input, a JSON line each: {"offline": true}
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

const [playwright, executablePath, url] = process.argv.slice(2);
const { chromium } = (await import(playwright)).default;
const say = (what) => process.stdout.write(JSON.stringify(what) + "\n");
const folder = (process.env.TMPDIR = mkdtempSync(join(tmpdir(), "page-")));
const server = await chromium.launchServer({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
});
const lines = createInterface({ input: process.stdin });
lines.on("close", async () => {
  await server.kill(); // also when it is stopped
  rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  process.exit(0);
});

const context = await (await chromium.connect(server.wsEndpoint())).newContext();
const page = await context.newPage();
await page.exposeFunction("say", say);
page.on("pageerror", (error) => say({ error: String(error) }));
await page.goto(url);
say({ pid: server.process().pid }); // a group of processes is named after its first

for await (const line of lines) {
  await context.setOffline(JSON.parse(line).offline);
  say({ done: line });
}
