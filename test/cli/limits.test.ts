import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { MAIN } from "../physarium.js";
import { hasEngine, LOAM } from "../probe/engine-present.js";
import { temporaryFolder } from "../temporary.js";

const BASE = temporaryFolder();
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

test
  .skipIf(process.platform !== "linux")
  .each([
    ["threads of kernels", "ulimit -v 12000000", ["surgery", LOAM, "OUT", "--workers", "2"], "USAGE_LIMIT"],
    ["threads of pack", "ulimit -v 12000000", ["pack", LOAM, "OUT", "--workers", "2"], "USAGE_LIMIT"],
    ...["-1", "257", "0.5"].flatMap((workers) =>
      ["surgery", "pack", "export", "verify"].map((command): [string, string, string[], string] => [
        `${command} --workers ${workers}`,
        "true",
        [command, LOAM, "OUT", "--workers", workers],
        "USAGE_ARGUMENT",
      ]),
    ),
  ])("%s: one sentence, and no output", (_, limit, args, code) => {
  const folder = mkdtempSync(join(BASE, "limit-"));
  const named = args.map((each) => (each === "OUT" ? join(folder, each) : each));
  const { status, stderr } = limited(limit, named);
  expect(stderr).toMatch(new RegExp(`^physarium: .* \\[${code}\\]\n$`));
  expect(status).toBe(2);
  expect(readdirSync(folder)).not.toContain("OUT");
});

test.skipIf(!hasEngine)("what needs a temporary folder says which is not there", () => {
  const folder = mkdtempSync(join(BASE, "limit-"));
  const args = ["export", LOAM, join(folder, "out.gguf"), "--type", "q4_0", "--calibration", text, "--window", "32"];
  const { status, stderr } = limited("true", args, { TMPDIR: join(folder, "not-there") });
  expect(stderr).toMatch(/^physarium: .*not-there: .*TMPDIR.* \[USAGE_TEMPORARY_FOLDER\]\n$/);
  expect(status).toBe(2);
  expect(readdirSync(folder)).toEqual([]);
});

test.skipIf(!hasEngine)("a temporary folder that is not there does not matter to what needs none", () => {
  const { status, stderr } = limited("true", evaluation, { TMPDIR: join(import.meta.dirname, "not-there") });
  expect(status, stderr).toBe(0);
});
