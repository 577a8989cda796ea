import { defineConfig } from "vitest/config";

/**
 * Tests that hold a clock, a limit, a signal or a process of their own against something: one file at a time, for a
 * neighbour that takes the processor would be what they see.
 */
const ALONE = [
  "test/attacks/**/*.test.ts",
  "test/farm/**/*.test.ts",
  "test/faults/**/*.test.ts",
  "test/hub/**/*.test.ts",
  "test/parts/**/*.test.ts",
  "test/cli/limits.test.ts",
  "test/cli/signals.test.ts",
  "test/pack/resume.test.ts",
  "test/probe/confined-process.test.ts",
  "test/probe/memory.test.ts",
  "test/report/**/*.test.ts",
  "test/surgery/bounds.test.ts",
  "test/surgery/locks.test.ts",
  "test/surgery/resume.test.ts",
  "test/package.test.ts",
];

export default defineConfig({
  test: {
    projects: [
      {
        extends: true,
        test: {
          name: "together",
          include: ["test/**/*.test.ts"],
          exclude: ALONE,
          maxWorkers: 2,
          sequence: { groupOrder: 0 },
        },
      },
      { extends: true, test: { name: "alone", include: ALONE, maxWorkers: 1, sequence: { groupOrder: 1 } } },
    ],
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
