import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    globalSetup: ["test/no-leftovers.ts"],
    testTimeout: 120_000,
    hookTimeout: 120_000,
    // Some tests load the engine past src/engine/runtime.ts, which would say this.
    env: { ORT_DISABLE_TELEMETRY: "1" },
    // Tests hold clocks, signals and limits against machines that others use, too; whoever needs a second try is named.
    retry: process.env.CI ? 1 : 0,
    reporters: process.env.CI
      ? ["default", "./scripts/unsteady.mjs", ["json", { outputFile: "coverage/vitest.json" }]]
      : ["default"],
  },
});
