// dist/: each entry as ESM and CommonJS, minified, with types for both. The core stands by itself; the other entries
// import it, so that a page has one.
import { build } from "esbuild";
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";

process.chdir(new URL("..", import.meta.url).pathname);
rmSync("dist", { recursive: true, force: true });

/** @param {string} extension @returns {import("esbuild").Plugin} */
const core = (extension) => ({
  name: "the core is an entry of its own",
  setup: ({ onResolve }) =>
    onResolve({ filter: /^\.\/index\.js$/ }, () => ({ path: `./index.${extension}`, external: true })),
});

for (const format of /** @type {const} */ (["esm", "cjs"]))
  for (const entry of ["index", "sse", "tabs", "react"]) {
    const extension = format == "esm" ? "js" : "cjs";
    await build({
      entryPoints: [`src/${entry}.ts`],
      outfile: `dist/${entry}.${extension}`,
      bundle: true,
      minify: true,
      format,
      target: "es2022",
      platform: "browser",
      external: ["react"],
      plugins: entry === "index" ? [] : [core(extension)],
      logLevel: "warning",
    });
  }

execFileSync("node", ["node_modules/typescript/bin/tsc", "-p", "tsconfig.build.json"], { stdio: "inherit" });
for (const name of readdirSync("dist").filter((name) => name.endsWith(".d.ts"))) {
  const types = readFileSync(`dist/${name}`, "utf8").replace(/(from "\.\/[a-z-]+)\.js"/g, '$1.cjs"');
  writeFileSync(`dist/${name.replace(/\.d\.ts$/, ".d.cts")}`, types);
}
