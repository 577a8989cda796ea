// The whole way on a real Slurm of one node (scripts/slurm-one-node.mjs): a synthetic donor, an array of parts, kill -9 of a
// task, what is missing sent again by index, the job that joins, and the digests of one machine; then a donor with a part that
// always fails, whose joining job must go away. Prints a line a round and, with --json, one object at the end.
//
//   node scripts/slurm-trial.mjs --megabytes 2000 --parts 16 --rounds 10
//   node scripts/slurm-trial.mjs --megabytes 24 --parts 6 --rounds 1 --json
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  writeSync,
} from "node:fs";
import { loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { startSlurm, stopSlurm, whyNot } from "./slurm-one-node.mjs";

const MAIN = fileURLToPath(new URL("../dist/cli/main.js", import.meta.url));
const { values } = parseArgs({
  options: {
    megabytes: { type: "string", default: "2000" },
    parts: { type: "string", default: "16" },
    rounds: { type: "string", default: "10" },
    throttle: { type: "string", default: "2" },
    json: { type: "boolean", default: false },
  },
});
const reason = whyNot();
if (reason !== "") {
  console.error(`no Slurm: ${reason}`);
  process.exit(77);
}
const say = (line) => (values.json ? undefined : console.log(line));
const folder = mkdtempSync(join(tmpdir(), "physarium-slurm-"));
const at = (name) => join(folder, name);
let env;

function physarium(...args) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [MAIN, ...args], { env, encoding: "utf8" });
  if (status !== 0) throw new Error(`physarium ${args.join(" ")}: exit ${status}: ${stderr}`);
  return stdout;
}

const submit = (output, ...flags) =>
  physarium(
    ...["parts", "submit", output, "--on", "slurm", "--cpus", "1", "--mem", "600M", "--time", "20"],
    ...["--throttle", values.throttle, "--command", `${process.execPath} ${MAIN}`, "--yes", ...flags],
  );
const status = (output) => JSON.parse(physarium("parts", "status", output, "--json"));

/** What is queued or running; a controller that does not answer is asked again. */
function queue() {
  const { status, stdout } = spawnSync("squeue", ["-h", "-o", "%i %T %r"], { env, encoding: "utf8" });
  return status === 0 ? stdout.trim() : "no answer";
}

async function until(what, test, seconds = 600) {
  for (const end = Date.now() + 1000 * seconds; ; ) {
    const found = test();
    if (found !== undefined && found !== false) return found;
    if (Date.now() > end) throw new Error(`${what}: not within ${seconds} s; queue:\n${queue()}`);
    await new Promise((wake) => setTimeout(wake, 50));
  }
}

/** Digests of the files and the ledger's records, without what differs from run to run. */
function fingerprint(output) {
  const files = readdirSync(output)
    .filter((name) => name !== "physarium")
    .sort()
    .map((name) => `${name} ${digest(join(output, name))}`);
  const records = readFileSync(join(output, "physarium/ledger.jsonl"), "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.stringify(JSON.parse(line), (key, value) => (key === "at" || key === "seconds" ? null : value)))
    .sort();
  return createHash("sha256")
    .update(JSON.stringify([files, records]))
    .digest("hex");
}

function digest(path) {
  const hash = createHash("sha256");
  const buffer = Buffer.alloc(8 << 20);
  const file = openSync(path, "r");
  for (let bytes = readSync(file, buffer); bytes > 0; bytes = readSync(file, buffer))
    hash.update(buffer.subarray(0, bytes));
  return hash.digest("hex");
}

/** Kill the task that holds some part just now; which part, or undefined where none was caught. */
function killSome(output) {
  const locks = `${output}.parts/locks`;
  if (!existsSync(locks)) return undefined;
  for (const name of readdirSync(locks)) {
    const part = /^part-(\d+)\.lock$/.exec(name)?.[1];
    if (part === undefined) continue;
    try {
      const { pid } = JSON.parse(readFileSync(join(locks, name), "utf8"));
      // Once it has begun to write.
      if (!existsSync(`${output}.parts/part-${part}.jsonl`)) continue;
      process.kill(pid, "SIGKILL");
      return Number(part);
    } catch {
      // It has ended meanwhile.
    }
  }
  return undefined;
}

async function round(number, donor, expected) {
  const output = at(`round-${number}`);
  physarium("parts", "prepare", donor, output, "--max-parts", values.parts);
  const started = performance.now();
  const jobs = submit(output).trim();
  const killed = await until("a task to kill", () => killSome(output));
  await until("the array to end and its joining job to go", () => queue() === "");
  const first = (performance.now() - started) / 1000;
  if (existsSync(output)) throw new Error("joined although a part was killed");
  const left = status(output);
  const missing = left.parts.filter(({ state }) => state !== "done").map(({ part }) => part);
  if (missing.join() !== String(killed)) {
    const why = left.parts.filter(({ state }) => state !== "done").map((part) => JSON.stringify(part));
    const log = (part) => readFileSync(`${output}.parts/logs/part-${part}.log`, "utf8");
    throw new Error(`part ${killed} was killed; not done are\n${why.join("\n")}\n${missing.map(log).join("\n")}`);
  }
  const again = performance.now();
  submit(output, "--missing");
  await until("the missing part and the joining job", () => queue() === "" && status(output).state === "joined");
  const second = (performance.now() - again) / 1000;
  const isEqual = fingerprint(output) === expected;
  const { parts } = JSON.parse(readFileSync(join(output, "physarium/surgery.json"), "utf8"));
  const resumed = parts.parts[killed].resumed_tensors;
  rmSync(output, { recursive: true });
  const result = { round: number, part_count: left.part_count, killed, resumed, first, second, isEqual };
  say(
    `round ${number}: ${jobs}; ${left.part_count} parts, task of part ${killed} killed (${resumed} of its tensors kept); ` +
      `array ${first.toFixed(1)} s, again and joined ${second.toFixed(1)} s (joining ${parts.join_seconds.toFixed(1)} s); ` +
      `digests and records ${isEqual ? "equal" : "DIFFER"}; load ${loadavg()[0].toFixed(1)}`,
  );
  return result;
}

/** A NaN in one tensor: its part fails at every try, and the joining job must not wait for ever. */
async function alwaysFailing(donor) {
  const broken = at("broken");
  cpSync(donor, broken, { recursive: true });
  const shard = join(
    broken,
    readdirSync(broken).find((name) => name.endsWith(".safetensors")),
  );
  const file = openSync(shard, "r+");
  const length = Buffer.alloc(8);
  readSync(file, length, 0, 8, 0);
  const header = Buffer.alloc(Number(length.readBigUInt64LE()));
  readSync(file, header, 0, header.length, 8);
  const [, { data_offsets }] = Object.entries(JSON.parse(header)).find(([name]) => /q_proj\.weight/.test(name));
  writeSync(file, Buffer.from([0xff, 0x7f]), 0, 2, 8 + header.length + data_offsets[0]);
  const output = at("failing");
  physarium("parts", "prepare", broken, output, "--max-parts", values.parts);
  const states = [];
  for (const flags of [[], ["--missing"]]) {
    submit(output, ...flags);
    await until("the queue to be empty", () => queue() === "");
    const { failed, done, part_count, parts } = status(output);
    states.push({ failed, done, part_count, code: parts.find(({ state }) => state === "failed")?.code });
  }
  rmSync(broken, { recursive: true });
  rmSync(`${output}.parts`, { recursive: true });
  say(`a part that always fails: ${JSON.stringify(states)}; the joining jobs went away, no output`);
  return { states, hasOutput: existsSync(output) };
}

for (const signal of ["SIGINT", "SIGTERM"]) {
  process.on(signal, () => {
    stopSlurm(at("slurm"));
    rmSync(folder, { recursive: true, force: true });
    process.exit(130);
  });
}
try {
  env = await startSlurm(at("slurm"));
  // Eight layers, 112 hidden² weights of two bytes, in one shard: it is cut, and joined again.
  const hidden = Math.max(64, 64 * Math.round(Math.sqrt((Number(values.megabytes) * 1e6) / 224) / 64));
  const layers = 8;
  mkdirSync(at("config"));
  const config = {
    ...{ model_type: "llama", architectures: ["LlamaForCausalLM"], hidden_size: hidden, intermediate_size: 3 * hidden },
    ...{ num_hidden_layers: layers, num_attention_heads: 8, num_key_value_heads: 8, vocab_size: 4 * hidden },
    ...{ torch_dtype: "bfloat16", tie_word_embeddings: false, rms_norm_eps: 1e-5, max_position_embeddings: 2048 },
  };
  writeSync(openSync(at("config/config.json"), "w"), JSON.stringify(config));
  const donor = at("donor");
  physarium("synth", at("config"), donor, "--quiet");
  const one = at("one");
  const started = performance.now();
  physarium("surgery", donor, one, "--quiet");
  const seconds = (performance.now() - started) / 1000;
  const shards = readdirSync(donor).filter((name) => name.endsWith(".safetensors"));
  const { donor: facts } = JSON.parse(readFileSync(join(one, "physarium/surgery.json"), "utf8"));
  say(
    `${facts.total_size} bytes in ${shards.length} shards, ${facts.tensor_count} tensors; ` +
      `physarium surgery on one machine ${seconds.toFixed(1)} s; load ${loadavg()[0].toFixed(1)}`,
  );
  const expected = fingerprint(one);
  rmSync(one, { recursive: true });
  const rounds = [];
  for (let number = 1; number <= Number(values.rounds); number++) rounds.push(await round(number, donor, expected));
  const failing = await alwaysFailing(donor);
  if (values.json) console.log(JSON.stringify({ bytes: facts.total_size, seconds, rounds, failing }));
  if (rounds.some(({ isEqual }) => !isEqual)) process.exitCode = 1;
} finally {
  stopSlurm(at("slurm"));
  rmSync(folder, { recursive: true, force: true });
}
