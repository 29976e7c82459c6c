// What a page loads, minified and gzipped, beside peers bundled in the same way: `npm run sizes` prints the table of
// README.md.
import { build } from "esbuild";
import { gzipSync } from "node:zlib";

/** What a page imports, by the name in the table. */
export const IMPORTS = {
  "@bloasis/notify": 'export * from "@bloasis/notify"',
  "and its /sse": 'export * from "@bloasis/notify"; export * from "@bloasis/notify/sse"',
  "and its /tabs": 'export * from "@bloasis/notify"; export * from "@bloasis/notify/tabs"',
  "and its /react": 'export * from "@bloasis/notify"; export * from "@bloasis/notify/react"',
  "reconnecting-websocket": 'export { default } from "reconnecting-websocket"',
  "socket.io-client": 'export { io } from "socket.io-client"',
  centrifuge: 'export { Centrifuge } from "centrifuge"',
};

/** Bytes of `code` with all that it imports, but React. @param {string} code */
export const sizeOf = async (code) => {
  const { outputFiles } = await build({
    stdin: { contents: code, resolveDir: import.meta.dirname },
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    platform: "browser",
    external: ["react"],
    write: false,
  });
  return gzipSync(/** @type {Uint8Array} */ (outputFiles[0]?.contents), { level: 9 }).length;
};

if (process.argv[1] === import.meta.filename) {
  console.log("| minified and gzipped | bytes |\n|---|---|");
  for (const [name, code] of Object.entries(IMPORTS)) console.log(`| ${name} | ${await sizeOf(code)} |`);
}
