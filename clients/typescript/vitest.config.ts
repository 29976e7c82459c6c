import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/*.test.ts"],
    restoreMocks: true,
    unstubGlobals: true,
    testTimeout: 30_000,
    // A bundle is built in one, and a browser started for the first time.
    hookTimeout: 60_000,
  },
});
