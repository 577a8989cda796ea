import { spawn } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { MAIN } from "../physarium.js";
import { hasEngine, LOAM } from "../probe/engine-present.js";
import { aSecond } from "../soon.js";
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

/** Sends the signal to itself as soon as somebody listens: long before the command has begun. */
const AT_ONCE = "as soon as it listens";
const itself = `import { isMainThread } from "node:worker_threads";
  if (isMainThread) { const look = setInterval(() => {
    if (process.listenerCount("SIGINT") === 0) return;
    clearInterval(look);
    process.kill(process.pid, "SIGINT");
  }, 1); look.unref(); }`;

/** Run a command, send it `name` after so many milliseconds or once it says these words, and see how it ends. */
function stop(args: readonly string[], name: NodeJS.Signals, when: number | string): Promise<Stopped> {
  const temporary = join(folder, `tmp-${runs++}`);
  mkdirSync(temporary);
  const child = spawn(process.execPath, [MAIN, ...args], {
    env: {
      ...process.env,
      TMPDIR: temporary,
      ...(when === AT_ONCE ? { NODE_OPTIONS: `--import "data:text/javascript,${encodeURIComponent(itself)}"` } : {}),
    },
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
    expect(seconds).toBeLessThan(aSecond());
    expect(left).toEqual([]);
  }
  expect(readdirSync(folder).filter((file) => file.includes("grams"))).toEqual([]);
});

/** Texts that take the tokenizer longer than a test: what is heard there is heard in the middle of it. */
const endlessText = join(folder, "endless.txt");
writeFileSync(endlessText, words.repeat(400_000));
const tokenising = ["--samples", "4", "--window", "32", "--seed", "1"];
const surgery = ["surgery", LOAM, join(folder, "v2"), "--flow", "activation", "--target-sparsity", "0.5"];
const TOKENISING: [string, string[]][] = [
  ["calibrate", ["calibrate", LOAM, "--text", endlessText, "--out", join(folder, "norms.safetensors")]],
  ["calibrate, an importance matrix", ["calibrate", LOAM, "--text", endlessText, "--out", join(folder, "norms.gguf")]],
  ["export", ["export", LOAM, join(folder, "out.gguf"), "--type", "q4_0", "--calibration", endlessText]],
  ["surgery", [...surgery, "--calibration", endlessText, ...tokenising]],
  ["compare", ["compare", LOAM, "--text", endlessText, "--sparsity", "0.5", "--methods", "magnitude"]],
  ["eval", ["eval", LOAM, "--text", endlessText]],
];

test.skipIf(!hasEngine).each(TOKENISING)("%s hears Ctrl-C before and during the tokenizer", async (_, args) => {
  for (const when of [AT_ONCE, 3000]) {
    const { status, signal, stderr, seconds, left } = await stop(args, "SIGINT", when);
    expect(stderr).toMatch(/physarium: .*stopped.* \[STOPPED\]\n$/);
    expect(signal === "SIGINT" || status === 130, `${status} ${signal}`).toBe(true);
    if (when !== AT_ONCE) expect(seconds).toBeLessThan(aSecond());
    expect(left).toEqual([]);
  }
  expect(readdirSync(folder).filter((file) => /^(norms|out|v2)/.test(file))).toEqual([]);
});

test("Ctrl-C while the modules load is heard, too", async () => {
  const { signal, stderr } = await stop(["plan", LOAM], "SIGINT", AT_ONCE);
  expect([signal, stderr]).toEqual(["SIGINT", "physarium: stopped; nothing was written [STOPPED]\n"]);
});

test.skipIf(!hasEngine)("a command of commands passes on a signal that it alone got", async () => {
  const operate = ["operate", endless, join(folder, "operated"), "--text", text, "--window", "32", "--threads", "1"];
  const { status, stderr, seconds } = await stop(operate, "SIGINT", "$ physarium surgery");
  expect(stderr).toMatch(/physarium: stopped; give the same command again to go on from here \[STOPPED\]\n$/);
  expect(status).toBe(130);
  expect(seconds).toBeLessThan(2 * aSecond());
});

test.skipIf(!hasEngine)("with --events the stop is a line like any other", async () => {
  const { stderr } = await stop(["eval", LOAM, ...long, "--events"], "SIGINT", '"type":"progress"');
  const lines = stderr.trimEnd().split("\n");
  expect(lines.map((line) => JSON.parse(line)).at(-1)).toMatchObject({ v: 1, type: "error", code: "STOPPED" });
});
