// A page in Chromium that is looked at and used as a person would: a JSON command a line, a JSON answer a line.
// node look.mjs <path of playwright-core> <path of chromium> <URL of the page>. Ends with its standard input.
import { createInterface } from "node:readline";

const [playwright, executablePath, url] = process.argv.slice(2);
const { chromium } = (await import(playwright)).default;
const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
});
const page = await browser.newPage({ viewport: { width: 1280, height: 800 } });
const complaints = [];
page.on("pageerror", (error) => complaints.push(String(error)));
page.on("console", (message) => {
  if (["error", "warning"].includes(message.type())) complaints.push(message.text());
});

const commands = {
  click: ({ selector }) => page.click(selector, { timeout: 10_000 }),
  fill: ({ selector, text }) => page.fill(selector, text, { timeout: 10_000 }),
  press: ({ key }) => page.keyboard.press(key),
  text: ({ selector }) => page.$$eval(selector, (found) => found.map((one) => one.innerText)),
  evaluate: ({ script }) => page.evaluate(script),
  resize: ({ width, height }) => page.setViewportSize({ width, height }),
  scheme: ({ scheme }) => page.emulateMedia({ colorScheme: scheme }),
  screenshot: async ({ path }) => void (await page.screenshot({ path, fullPage: true })),
  complaints: () => complaints,
};

await page.goto(url);
process.stdout.write(JSON.stringify({ result: "open" }) + "\n");
for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...with_ } = JSON.parse(line);
  let answer;
  try {
    answer = { result: (await commands[command](with_)) ?? null };
  } catch (error) {
    answer = { error: String(error) };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
await browser.close();
