import { spawn } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { MAIN } from "../physarium.js";
import { hasEngine, LOAM } from "../probe/engine-present.js";
import { temporaryFolder } from "../temporary.js";

const folder = temporaryFolder();
const text = join(folder, "long.txt");
const words = "Once upon a time there was a little fox who lived in the wood and went to see the sea. ";
writeFileSync(text, words.repeat(6000));
let runs = 0;

interface Stopped {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stderr: string;
  /** From the signal to the end of the process. */
  readonly seconds: number;
  /** What stayed in the temporary folder. */
  readonly left: string[];
}

/** Run a command, send it `name` after so many milliseconds or once it says these words, and see how it ends. */
function stop(args: readonly string[], name: NodeJS.Signals, when: number | string): Promise<Stopped> {
  const temporary = join(folder, `tmp-${runs++}`);
  mkdirSync(temporary);
  const child = spawn(process.execPath, [MAIN, ...args], {
    env: { ...process.env, TMPDIR: temporary },
    stdio: ["ignore", "ignore", "pipe"],
  });
  let stderr = "";
  let sent = 0;
  const send = (): void => {
    sent = performance.now();
    child.kill(name);
  };
  child.stderr.setEncoding("utf8").on("data", (piece: string) => {
    stderr += piece;
    if (typeof when === "string" && sent === 0 && stderr.includes(when)) send();
  });
  if (typeof when === "number") setTimeout(send, when);
  return new Promise((resolve) =>
    child.on("close", (status, signal) =>
      resolve({ status, signal, stderr, seconds: (performance.now() - sent) / 1000, left: readdirSync(temporary) }),
    ),
  );
}

/** loam that never comes to an end. */
const endless = join(folder, "endless");
cpSync(LOAM, endless, { recursive: true });
for (const file of ["config.json", "generation_config.json", "tokenizer_config.json"]) {
  if (!existsSync(join(LOAM, file))) continue;
  const { eos_token_id, eos_token, ...json } = JSON.parse(readFileSync(join(LOAM, file), "utf8"));
  const more = file === "config.json" ? { max_position_embeddings: 100_000 } : {};
  writeFileSync(join(endless, file), JSON.stringify({ ...json, ...more }));
}

const engine = ["--threads", "1"];
const long = ["--text", text, "--window", "128", ...engine];
const out = ["--out", join(folder, "grams.safetensors"), "--samples", "2000"];
const COMMANDS: [string, string[]][] = [
  ["eval", ["eval", LOAM, ...long]],
  ["gate", ["gate", LOAM, "--against", LOAM, ...long, "--max-tokens", "120"]],
  ["generate", ["generate", endless, "--prompt", "Once", "--max-tokens", "90000", "--temperature", "1", ...engine]],
  ["calibrate", ["calibrate", LOAM, ...long, ...out]],
];

test.skipIf(!hasEngine).each(COMMANDS)("%s hears Ctrl-C within a second, and says what is left", async (_, args) => {
  for (const name of ["SIGINT", "SIGTERM"] as const) {
    const { status, signal, stderr, seconds, left } = await stop(args, name, 2500);
    expect(stderr).toMatch(/physarium: .*stopped.* \[STOPPED\]\n$/);
    expect(signal === name || status === 130, `${status} ${signal}`).toBe(true);
    // A second, and what a busy machine of the tests takes to start threads and close files.
    expect(seconds).toBeLessThan(2.5);
    expect(left).toEqual([]);
  }
  expect(readdirSync(folder).filter((file) => file.includes("grams"))).toEqual([]);
});

test.skipIf(!hasEngine)("with --events the stop is a line like any other", async () => {
  const { stderr } = await stop(["eval", LOAM, ...long, "--events"], "SIGINT", '"type":"progress"');
  const lines = stderr.trimEnd().split("\n");
  expect(lines.map((line) => JSON.parse(line)).at(-1)).toMatchObject({ v: 1, type: "error", code: "STOPPED" });
});
