import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { MAIN } from "../physarium.js";
import { hasEngine, LOAM } from "../probe/engine-present.js";
import { temporaryFolder } from "../temporary.js";

// The runtime's library sends events to its maker unless it is told not to before it is loaded; see
// src/engine/runtime.ts. Each run here is in a network namespace of its own, so that nothing gets out even where the
// command tries to, with a home and a temporary folder that were empty.
const runs = (command: string, ...args: string[]): boolean => spawnSync(command, args).status === 0;
const isApart = runs("unshare", "-n", "true");
if (!isApart) console.warn("no network namespace can be had here: tests of telemetry are skipped");
const isTraced = isApart && runs("unshare", "-n", "strace", "-f", "-o", "/dev/null", "true");
if (isApart && !isTraced) console.warn("strace does not run here: sockets are not counted");

const folder = temporaryFolder();
const text = join(folder, "story.txt");
writeFileSync(
  text,
  "Once upon a time there was a little fox who lived in the wood and went to see the sea.\n".repeat(12),
);

/** Run a command apart; what it opened and what it left. */
function apart(name: string, args: readonly string[], env: Record<string, string>) {
  const [home, temporary, log] = [join(folder, name, "home"), join(folder, name, "tmp"), join(folder, `${name}.trace`)];
  mkdirSync(home, { recursive: true });
  mkdirSync(temporary);
  const traced = ["strace", "-f", "-qq", "-e", "trace=socket,connect", "-o", log];
  const { status, stderr } = spawnSync(
    "unshare",
    ["-n", ...(isTraced ? traced : []), process.execPath, MAIN, ...args],
    {
      encoding: "utf8",
      // What the user's environment says does not matter: it says that events are welcome. Nothing else of this process's
      // own: where CI is set the engine is silent by itself, and nothing here could fail.
      env: { PATH: process.env.PATH ?? "", ORT_DISABLE_TELEMETRY: "0", ...env, HOME: home, TMPDIR: temporary },
    },
  );
  const lines = existsSync(log) ? readFileSync(log, "utf8").split("\n") : [];
  return {
    status,
    stderr,
    // A lock's life line is a socket of the file system: no network is behind it.
    sockets: lines.filter((line) => /\b(?:socket|connect)\(/.test(line) && !/AF_UNIX/.test(line)),
    files: [home, temporary].flatMap((path) => readdirSync(path, { recursive: true, encoding: "utf8" })),
  };
}

const evaluation = ["eval", LOAM, "--text", text, "--window", "32", "--limit", "2", "--quiet"];

test.skipIf(!hasEngine || !isApart)("eval opens no socket and leaves no file, whatever the environment says", () => {
  const { status, stderr, sockets, files } = apart("eval", evaluation, { PHYSARIUM_ORT_TELEMETRY: "0" });
  expect(status, stderr).toBe(0);
  expect(sockets).toEqual([]);
  expect(files).toEqual([]);
});

test.skipIf(!hasEngine || !isApart)("nor does surgery whose threads have an engine each", () => {
  const v2 = ["surgery", LOAM, join(folder, "operated"), "--flow", "activation", "--pattern", "2:4", "--quiet"];
  const little = [
    "--include",
    "layers\\.0\\.mlp",
    "--calibration",
    text,
    "--window",
    "32",
    "--samples",
    "4",
    "--workers",
    "2",
  ];
  const { status, stderr, sockets, files } = apart("surgery", [...v2, ...little], {});
  expect(status, stderr).toBe(0);
  expect(sockets).toEqual([]);
  expect(files).toEqual([]);
});

test.skipIf(!hasEngine || !isApart)("this test would see it: who asks for telemetry gets its files", () => {
  const { status, stderr, files } = apart("asked", evaluation, { PHYSARIUM_ORT_TELEMETRY: "1" });
  expect(status, stderr).toBe(0);
  expect(files.join()).toMatch(/deviceid|mat-debug/);
});
