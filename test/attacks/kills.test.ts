import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { temporaryFolder } from "../temporary.js";

const BENCH = fileURLToPath(new URL("../../bench/kills.mjs", import.meta.url));

/** The bench with few kills: its table, with twenty of each command, stands in docs/reliability.md. */
test("killed at a random time in a pid namespace, the next run of the command ends as if nothing had been", () => {
  const args = [BENCH, "--kills", "2", "--seed", `${Date.now() % 1000}`, "--only", "import,synth"];
  const { status, stdout, stderr } = spawnSync(process.execPath, args, {
    encoding: "utf8",
    env: { ...process.env, TMPDIR: temporaryFolder() },
  });
  expect(status, `${stdout}\n${stderr}`).toBe(0);
  expect(stdout.match(/^\| (import|synth) /gm)).toHaveLength(2);
});
