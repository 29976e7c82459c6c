// What only a browser shows: tabs, React, event streams. Needs Chromium: CHROMIUM=/path/to/it, or in the PATH.

import { execFileSync } from "node:child_process";
import type { ServerResponse } from "node:http";
import { build } from "esbuild";
import { chromium, type Browser, type BrowserContext, type Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import type * as notify from "@bloasis/notify";
import type * as react from "@bloasis/notify/react";
import type * as sse from "@bloasis/notify/sse";
import type * as tabs from "@bloasis/notify/tabs";
import { Gateway, send, welcome, type Visit } from "./gateway.js";
import { at, order } from "./world.js";

type Bundle = typeof notify & typeof react & typeof sse & typeof tabs & {
  React: typeof import("react");
  createRoot: typeof import("react-dom/client").createRoot;
};
declare global {
  interface Window {
    bundle: Bundle;
    client: notify.Client;
    ids: (string | undefined)[];
    seen: unknown[];
  }
}

const BUNDLE = `
  export * from "@bloasis/notify"; export * from "@bloasis/notify/react"; export * from "@bloasis/notify/sse";
  export * from "@bloasis/notify/tabs"; export * as React from "react"; export { createRoot } from "react-dom/client";`;

const where = (): string | undefined => {
  if (process.env.CHROMIUM) return process.env.CHROMIUM;
  for (const name of ["chromium", "chromium-browser", "google-chrome"])
    try {
      return execFileSync("which", [name], { encoding: "utf8" }).trim();
    } catch {
      // Not this one.
    }
  return undefined;
};
const executablePath = where();

// CI has it.
describe.skipIf(!executablePath && !process.env.CI)("in a browser", () => {
  let browser: Browser;
  let script: string;
  let context: BrowserContext;
  let gateway: Gateway;

  beforeAll(async () => {
    const { outputFiles } = await build({
      stdin: { contents: BUNDLE, resolveDir: import.meta.dirname },
      bundle: true,
      format: "iife",
      globalName: "bundle",
      define: { "process.env.NODE_ENV": '"development"' },
      write: false,
    });
    script = outputFiles[0]!.text;
    browser = await chromium.launch({
      executablePath: executablePath!,
      args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
    });
  });
  afterAll(() => browser?.close());

  beforeEach(async () => {
    gateway = await Gateway.start();
    gateway.files["/bundle.js"] = ["text/javascript", script];
    gateway.files["/"] = ["text/html", '<!doctype html><div id="root"></div><script src="/bundle.js"></script>'];
    context = await browser.newContext();
  });
  afterEach(async () => {
    await context.close();
    await gateway.stop();
  });

  const open = async (): Promise<Page> => {
    const page = await context.newPage();
    page.on("pageerror", (error) => expect.soft(String(error)).toBe(""));
    await page.goto(`http://127.0.0.1:${gateway.port}/`);
    return page;
  };
  const until = (what: () => unknown) =>
    vi.waitFor(async () => expect(await what()).toBeTruthy(), { timeout: 25_000, interval: 50 });
  const hears = (page: Page, ids: number[]) =>
    vi.waitFor(async () => expect(await page.evaluate(() => window.ids)).toEqual(ids.map((id) => order(id).id)), {
      timeout: 25_000,
    });

  describe("server-sent events", () => {
    const STREAM = { "Content-Type": "text/event-stream" };
    const event = (seq: number, epoch = "a") => {
      const { type, data, id, ts } = order(seq);
      return `event: ${type}\ndata: ${JSON.stringify({ type, data, id, ts })}\nid: a.0.${epoch}.${seq}\n\n`;
    };
    const connect = (page: Page, token?: string) =>
      page.evaluate((token) => {
        const { createClient, serverSentEvents } = window.bundle;
        window.seen = [];
        window.client = createClient({ url: "/ws", fallback: serverSentEvents(), ...(token && { token: () => token }) });
        window.client.subscribe("order_executed", (data) => window.seen.push(data.order_id));
        window.client.on("state", (state, reason) => window.seen.push(`${state} ${reason}`.trim()));
        window.client.connect("ann");
      }, token);

    test("take the place of WebSockets that do not get through, and go on where they were", async () => {
      gateway.welcomes = undefined;
      const asked: string[] = [];
      const streams: ServerResponse[] = [];
      gateway.events = (request, response) => {
        asked.push(`${request.url} ${request.headers.authorization}`);
        streams.push(response);
        response.writeHead(200, STREAM).write(`retry: 2000\n\nid: a.0.a.${asked.length - 1}\n\n`);
      };
      const page = await open();
      await connect(page, "secret");
      await until(() => streams.length);
      streams[0]!.write(event(1));
      await until(() => page.evaluate(() => window.seen.includes("1")));
      streams[0]!.write('event: control\ndata: {"control":"error","code":"service_restart","message":""}\n\n');
      streams[0]!.end();
      await until(() => streams.length === 2);
      streams[1]!.write(event(1) + event(2));
      await until(() => page.evaluate(() => window.seen.includes("2")));
      // Lost with a Redis: what is published again has other places, and the same ids.
      const resync = '{"control":"resync","stream":"user","reason":"unknown_epoch"}';
      streams[1]!.write(`event: control\ndata: ${resync}\n\n` + [1, 2, 3].map((seq) => event(seq, "b")).join(""));
      await until(() => page.evaluate(() => window.seen.includes("3")));
      expect(await page.evaluate(() => window.seen)).toEqual([
        "connecting", "open", "1", "reconnecting service_restart", "open", "2", "3",
      ]);
      expect(asked).toEqual(["", "&cursor=a.0.a.1"].map((cursor) => `/events?user_id=ann${cursor} Bearer secret`));
      await page.evaluate(() => window.client.disconnect());
      await until(() => streams[1]!.destroyed);
    });

    test("that are refused for good end it, and those of a proxy do not", async () => {
      gateway.welcomes = undefined;
      let visits = 0;
      gateway.events = (_, response) => {
        if (visits++) response.writeHead(401).end('{"error":"unauthorized","message":"A token is missing."}');
        else response.writeHead(403).end("<h1>Captive portal</h1>");
      };
      const page = await open();
      await connect(page);
      await until(() => page.evaluate(() => window.client.state === "closed"));
      expect(visits).toBe(2);
      expect((await page.evaluate(() => window.seen)).at(-1)).toBe("closed unauthorized: A token is missing.");
    });

    test("that are refused for now come again, and those told to stay away do not", async () => {
      gateway.welcomes = undefined;
      let visits = 0;
      const error = (code: string) => `event: control\ndata: {"control":"error","code":"${code}","message":""}\n\n`;
      gateway.events = (_, response) => {
        response.writeHead(200, STREAM);
        if (visits++) response.end(`retry: 2000\n\nid: a.0.a.0\n\nretry: 86400000\n\n${error("replaced")}`);
        else response.end(`retry: 50\n\n${error("unavailable")}`);
      };
      const page = await open();
      await connect(page);
      await until(() => page.evaluate(() => window.client.state === "closed"));
      expect(visits).toBe(2);
      expect((await page.evaluate(() => window.seen)).slice(-2)).toEqual(["open", "closed replaced"]);
    });
  });

  describe("tabs", () => {
    const share = async (user = "ann"): Promise<Page> => {
      const page = await open();
      await page.evaluate((user) => {
        window.ids = [];
        window.seen = [];
        window.client = window.bundle.createSharedClient({ url: "/ws", token: () => "secret" });
        window.client.subscribe("*", (message) => window.ids.push(message.id));
        window.client.on("state", (state, reason) => window.seen.push(`${state} ${reason}`.trim()));
        window.client.connect(user);
      }, user);
      return page;
    };
    const isOpen = (page: Page) => until(() => page.evaluate(() => window.client.state === "open"));
    const tell = (...seqs: number[]) => {
      const [visit] = gateway.open;
      for (const seq of seqs) send(visit!, order(seq));
    };
    /** Resumes as the service does: from the cursor, up to where all of them are. */
    const resumes = (top: () => number) => (visit: Visit) => {
      const from = Number(visit.query.cursor?.split(".")[3] ?? 0);
      send(visit, welcome(at(0, from)));
      for (let seq = from + 1; seq <= top(); seq++) send(visit, order(seq));
    };

    test("of one user have one connection, and each gets each event once", async () => {
      const pages = [await share(), await share(), await share()];
      await Promise.all(pages.map(isOpen));
      tell(1, 2, 3);
      await Promise.all(pages.map((page) => hears(page, [1, 2, 3])));
      const late = await share();
      await isOpen(late);
      tell(4);
      await Promise.all([...pages.map((page) => hears(page, [1, 2, 3, 4])), hears(late, [4])]);
      expect(gateway.visits).toHaveLength(1);
      const other = await share("bob");
      await isOpen(other);
      expect(gateway.visits.map(({ query }) => query.user_id)).toEqual(["ann", "bob"]);
      await pages[1]!.evaluate(() => window.client.send({ control: "ping" }));
      await until(() => gateway.visits[0]!.said.length);
    });

    test("lose and double nothing when the one that leads goes, again and again", async () => {
      let top = 0;
      gateway.welcomes = resumes(() => top);
      const pages = [await share(), await share(), await share()];
      await Promise.all(pages.map(isOpen));
      for (let round = 0; pages.length; round++) {
        for (let count = 0; count < 20; count++) tell(++top);
        const leader = pages.shift()!;
        top += 5; // published, and it will not bring them
        // One is closed, the next leaves in good order.
        if (round % 2) await leader.evaluate(() => window.client.disconnect());
        else await leader.close();
        await until(() => gateway.visits.length === round + 2 || !pages.length);
        const all = Array.from({ length: top }, (_, number) => number + 1);
        await Promise.all(pages.map((page) => hears(page, all)));
      }
      await until(() => !gateway.open.length);
    });

    test("take the lead from one that hangs, and give it nothing twice", async () => {
      let top = 0;
      gateway.welcomes = resumes(() => top);
      const hangs = await share();
      await isOpen(hangs);
      const seen = await share();
      await isOpen(seen);
      tell(++top);
      await Promise.all([hears(hangs, [1]), hears(seen, [1])]);
      await hangs.evaluate(() => setTimeout(() => {
        for (const began = Date.now(); Date.now() - began < 24_000; );
      }));
      await seen.bringToFront();
      await seen.evaluate(() => dispatchEvent(new Event("visibilitychange")));
      await until(() => gateway.visits.length === 2);
      for (const visit of gateway.open) send(visit, order(top + 1));
      top++;
      await hears(seen, [1, 2]);
      await hears(hangs, [1, 2]);
      await until(() => gateway.open.length === 1);
    }, 90_000);

    test("all hear what was left out", async () => {
      const pages = [await share(), await share()];
      await Promise.all(pages.map(isOpen));
      for (const page of pages)
        await page.evaluate(() => window.client.on("conflated", ({ type, dropped }) => window.seen.push(`${dropped} ${type}`)));
      send(gateway.open[0]!, { control: "conflated", stream: "user", type: "order_executed", dropped: 2 });
      for (const page of pages) await until(() => page.evaluate(() => window.seen.includes("2 order_executed")));
    });

    test("end together when the server ends it for good", async () => {
      const pages = [await share(), await share()];
      await Promise.all(pages.map(isOpen));
      gateway.open[0]!.socket.close(4500, "unauthorized");
      for (const page of pages) await until(() => page.evaluate(() => window.client.state === "closed"));
      expect(await pages[1]!.evaluate(() => window.seen.at(-1))).toBe("closed unauthorized");
    });
  });

  test("React's hooks call the handler of the last render, follow the state, and leave", async () => {
    const page = await open();
    await page.evaluate(() => {
      const { createClient, createRoot, React, useConnectionState, useNotification } = window.bundle;
      const client = (window.client = createClient({ url: "/ws", userId: "ann" }));
      window.seen = [];
      window.ids = [];
      const Orders = ({ name }: { name: string }) => {
        useNotification("order_executed", (data, message) => window.seen.push(`${name} ${data.order_id} ${message.seq}`), client);
        useNotification("*", (message) => window.ids.push(`${name} ${message.id}`), client);
        return React.createElement("p", null, `${name} ${useConnectionState(client)}`);
      };
      const root = createRoot(document.getElementById("root")!);
      const render = (name?: string) =>
        root.render(React.createElement(React.StrictMode, null, name && React.createElement(Orders, { name })));
      addEventListener("render", (event) => render((event as CustomEvent<string>).detail));
      render("first");
      client.connect();
    });
    const text = () => page.locator("#root").innerText();
    await until(async () => (await text()) === "first open");
    send(gateway.open[0]!, order(1));
    await until(() => page.evaluate(() => window.seen.length === 1));
    await page.evaluate(() => dispatchEvent(new CustomEvent("render", { detail: "second" })));
    await until(async () => (await text()) === "second open");
    send(gateway.open[0]!, order(2));
    await until(() => page.evaluate(() => window.seen.length === 2));
    gateway.welcomes = undefined;
    gateway.open[0]!.socket.terminate();
    await until(async () => (await text()) === "second reconnecting");
    gateway.welcomes = (visit) => send(visit, welcome(at(0, 2)));
    await until(async () => (await text()) === "second open");
    await page.evaluate(() => dispatchEvent(new CustomEvent("render")));
    await until(async () => (await text()) === "");
    await page.evaluate(() => window.client.subscribe("*", () => window.seen.push("all")));
    send(gateway.open[0]!, order(3));
    await until(() => page.evaluate(() => window.seen.includes("all")));
    expect(await page.evaluate(() => window.seen)).toEqual(["first 1 1", "second 2 2", "all"]);
    expect(await page.evaluate(() => window.ids)).toEqual([`first ${order(1).id}`, `second ${order(2).id}`]);
  });
});
