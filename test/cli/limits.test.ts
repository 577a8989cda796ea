import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { expect, test } from "vitest";
import { MAIN } from "../physarium.js";
import { hasEngine, LOAM } from "../probe/engine-present.js";

const text = "examples/texts/loam-stories.txt";
const evaluation = ["eval", LOAM, "--text", text, "--window", "32", "--limit", "1", "--quiet"];

/** Run the command line behind `ulimit`; `undefined` where the shell may not set it. */
function limited(limit: string, args: readonly string[], env: Record<string, string> = {}) {
  const line = `${limit} && exec "$0" "$@"`;
  const ran = spawnSync("sh", ["-c", line, process.execPath, MAIN, ...args], {
    encoding: "utf8",
    env: { ...process.env, ...env },
  });
  return ran;
}

test.skipIf(process.platform !== "linux").each([
  ["few open files", "ulimit -n 24"],
  ["some more open files", "ulimit -n 64"],
  ["little address space", "ulimit -v 4000000"],
])("%s: it works, or one sentence says what to allow", (_, limit) => {
  const { status, stderr } = limited(limit, hasEngine ? evaluation : ["plan", LOAM]);
  if (status === 0) return;
  expect(stderr).toMatch(/^physarium: .*ulimit.* \[USAGE_\w+\]\n$/);
  expect(status).toBe(2);
});

test.skipIf(!hasEngine)("a temporary folder that is not there does not matter to what needs none", () => {
  const { status, stderr } = limited("true", evaluation, { TMPDIR: join(import.meta.dirname, "not-there") });
  expect(status, stderr).toBe(0);
});
