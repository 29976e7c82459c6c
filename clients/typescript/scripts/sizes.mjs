// What a page loads, minified and gzipped, beside peers bundled in the same way: a table for README.md.
import { build } from "esbuild";
import { gzipSync } from "node:zlib";

process.chdir(new URL("..", import.meta.url).pathname);

/** Bytes of `code` with all that it imports. */
export const sizeOf = async (code) => {
  const { outputFiles } = await build({
    stdin: { contents: code, resolveDir: process.cwd() },
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    platform: "browser",
    external: ["react"],
    write: false,
    logLevel: "error",
  });
  return gzipSync(outputFiles[0].contents, { level: 9 }).length;
};

/** As they are published: entries are measured without the core that they import. */
export const CORE = 'export * from "./dist/index.js"';

if (process.argv[1] === import.meta.filename) {
  const core = await sizeOf(CORE);
  const rows = [
    ["`@bloasis/notify`", core],
    ...(await Promise.all(
      ["sse", "tabs", "react"].map(async (entry) => [
        `with \`/${entry}\``,
        await sizeOf(`${CORE}; export * from "./dist/${entry}.js"`),
      ]),
    )),
  ];
  for (const [name, what] of [["reconnecting-websocket"], ["socket.io-client"], ["centrifuge"]].map(([name]) => [name, name]))
    try {
      rows.push([name, await sizeOf(`export * from "${what}"; export { default } from "${what}"`)]);
    } catch {
      rows.push([name, "not installed: npm install --no-save " + name]);
    }
  for (const [name, bytes] of rows) console.log(`| ${name} | ${bytes} |`);
}
