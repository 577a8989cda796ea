import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { cp } from "node:fs/promises";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { gaussianTensor, randomNumbers, type TensorFixture, writeDonor } from "../donors.js";
import { type Ended, eventsOf, physarium, type SpawnOptions } from "../physarium.js";
import { temporaryFolder } from "../temporary.js";
import { filesOf } from "./operate.js";

/** The card names the donor as it was given, which these runs spell in two ways. */
function butCard(files: ReadonlyMap<string, string>): ReadonlyMap<string, string> {
  return new Map([...files].filter(([name]) => name !== "README.md"));
}

/** Kills in all; 120 and more by hand with PHYSARIUM_KILLS. */
const KILLS = Number(process.env.PHYSARIUM_KILLS ?? 25);
const SEED = Number(process.env.PHYSARIUM_SEED ?? 20261123);
const KILL_SWITCH = new URL("./kill-switch.mjs", import.meta.url);

const folder = temporaryFolder();
const donor = join(folder, "donor");
const PARAMS = ["--block-size", "64", "--json"];

/** Three shards; targets of several pieces, tensors that are carried over, an empty one. */
function shards(): TensorFixture[][] {
  return [0, 1, 2].map((shard) => [
    gaussianTensor(`model.layers.${shard}.input_layernorm.weight`, "BF16", [256], 10 * shard),
    gaussianTensor(`model.layers.${shard}.self_attn.q_proj.weight`, "BF16", [300, 256], 10 * shard + 1),
    gaussianTensor(`model.layers.${shard}.mlp.down_proj.weight`, "F32", [256, 700], 10 * shard + 2),
    gaussianTensor(`model.layers.${shard}.mlp.up_proj.weight`, "F16", [700, 256], 10 * shard + 3),
    { name: `empty.${shard}`, dtype: "F32", shape: [0, 4], bytes: new Uint8Array(0) },
    gaussianTensor(`extra.${shard}.weight`, "BF16", [1000, 128], 10 * shard + 4),
  ]);
}

interface Reference {
  readonly flags: readonly string[];
  readonly files: ReadonlyMap<string, string>;
  readonly ledger: readonly string[];
  readonly calls: number;
  readonly records: number;
  readonly seconds: number;
}
let plain: Reference;
let searched: Reference;
let outputs = 0;
const freshOutput = () => join(folder, `output-${outputs++}`);

function surgery(output: string, flags: readonly string[], options: SpawnOptions = {}): Promise<Ended> {
  return physarium(["surgery", donor, output, ...PARAMS, ...flags], options);
}

/** Everything that an undisturbed run leaves; times and order are its own. */
async function reference(name: string, flags: readonly string[]): Promise<Reference> {
  const output = join(folder, name);
  const { status, stderr } = await surgery(output, flags, {
    preload: KILL_SWITCH,
    env: { PHYSARIUM_KILL: "count" },
  });
  expect(status, stderr).toBe(0);
  const { calls, records } = eventsOf(stderr).find(({ event }) => event === "counts") as unknown as Reference;
  const { seconds } = await surgery(freshOutput(), flags);
  return { flags, files: filesOf(output), ledger: ledgerOf(output), calls, records, seconds };
}

function ledgerOf(output: string): string[] {
  return readFileSync(join(output, "physarium/ledger.jsonl"), "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.stringify(JSON.parse(line), (key, value) => (key === "at" || key === "seconds" ? null : value)))
    .sort();
}

/** Names of the tensors that whole records of a stopped run's ledger hold. */
function recorded(output: string): Set<string> {
  const path = join(`${output}.partial`, "physarium/ledger.jsonl");
  if (!existsSync(path)) return new Set();
  const lines = readFileSync(path, "utf8").split("\n").slice(0, -1);
  return new Set(
    lines
      .map((line) => JSON.parse(line))
      .filter(({ kind }) => kind === "tensor")
      .map(({ name }) => name),
  );
}

/** Resume and hold everything against the undisturbed run. Returns the resumed run's events. */
async function resumeAndCompare(output: string, expected: Reference, flags: readonly string[] = []) {
  const done = recorded(output);
  const { status, stderr } = await surgery(output, [...expected.flags, "--resume", ...flags]);
  expect(status, stderr).toBe(0);
  expect(filesOf(output)).toEqual(expected.files);
  expect(ledgerOf(output)).toEqual(expected.ledger);
  expect(existsSync(`${output}.partial`)).toBe(false);
  const ours = readdirSync(join(output, "physarium"));
  expect(ours.filter((name) => /lock|tmp|replaces/.test(name))).toEqual([]);
  const events = eventsOf(stderr);
  const note = events.find(({ event, message }) => event === "note" && String(message).startsWith("resuming"));
  if (done.size > 0) {
    expect(note?.message).toBe(`resuming: ${done.size} of 18 tensors are done and unchanged`);
    const again = events.filter(({ event, name }) => event === "tensor" && done.has(name as string));
    expect(again).toEqual([]);
    expect(events.filter(({ event }) => event === "tensor").length).toBe(18 - done.size);
  }
  return events;
}

beforeAll(async () => {
  writeDonor(donor, shards(), { "config.json": "{}", "tokenizer.json": `{"side": "file"}` });
  plain = await reference("plain", []);
  searched = await reference("searched", ["--target-sparsity", "0.4"]);
});

describe("kill -9", () => {
  test(
    `${KILLS} kills: at ledger records, in the middle of one, before any call, at random times; then --resume`,
    async () => {
      const random = randomNumbers(SEED);
      const pick = <T>(values: readonly T[]) => values[Math.floor(random() * values.length)];
      let kills = 0;
      const counts: Record<string, number> = {};
      // Every record first, as far as the budget goes; then the rest in turns.
      const stride = Math.max(1, Math.ceil((2 * plain.records) / KILLS));
      const queue: string[] = [];
      for (let record = 1; record <= plain.records; record += stride) queue.push(`ledger:${record}`);
      while (kills < KILLS) {
        const expected = kills % 5 === 4 ? searched : plain;
        const output = freshOutput();
        // A run may be killed several times over before it gets through.
        const inARow = random() < 0.2 ? 3 : 1;
        for (let turn = 0; turn < inARow; turn++) {
          const mode = queue.shift() ?? pick(["half", "call", "time", "ledger"]);
          const [kind] = mode.split(":");
          const range = kind === "call" ? expected.calls : expected.records;
          const at = mode.includes(":") ? mode : `${kind}:${1 + Math.floor(random() * range)}`;
          const flags = [...expected.flags, "--workers", pick(["0", "1", "2"]), ...(turn > 0 ? ["--resume"] : [])];
          const { signal, status, stderr } =
            kind === "time"
              ? await surgery(output, flags, {
                  onStart: (child) =>
                    setTimeout(() => child.kill("SIGKILL"), 1000 * expected.seconds * (0.3 + 0.8 * random())),
                })
              : await surgery(output, flags, { preload: KILL_SWITCH, env: { PHYSARIUM_KILL: at } });
          if (signal !== "SIGKILL") {
            // Too late, or fewer calls on a resume: the run ended well.
            expect(status, stderr).toBe(0);
            break;
          }
          kills++;
          counts[kind] = (counts[kind] ?? 0) + 1;
          // A killed run never leaves a final name with half an output.
          if (existsSync(output)) expect(filesOf(output)).toEqual(expected.files);
        }
        await resumeAndCompare(output, expected);
        rmSync(output, { recursive: true });
      }
      console.log(
        `${kills} kills (${JSON.stringify(counts)}), seed ${SEED}: every resume gave the undisturbed run's bytes`,
      );
      expect(kills).toBeGreaterThanOrEqual(KILLS);
    },
    30_000 + KILLS * 20_000,
  );

  test("while a finished output is replaced: the old or the new one has the name, both flags go on", async () => {
    const finished = freshOutput();
    expect((await surgery(finished, ["--survival", "0.1"])).status).toBe(0);
    const old = filesOf(finished);
    let unfinished = 0;
    // The calls of publishing are the last: marker, renames, removals.
    for (let call = plain.calls - 2; call <= plain.calls + 3; call++) {
      const output = freshOutput();
      await cp(finished, output, { recursive: true });
      await surgery(output, ["--overwrite"], { preload: KILL_SWITCH, env: { PHYSARIUM_KILL: `call:${call}` } });
      if (existsSync(`${output}.partial`)) {
        if (existsSync(output)) expect(filesOf(output)).toEqual(old);
        if (unfinished++ === 0) {
          const { stderr } = await surgery(output, []);
          expect(stderr).toContain("USAGE_UNFINISHED");
          expect(stderr).toContain("--resume --overwrite");
        }
      } else expect(filesOf(output)).toEqual(plain.files);
      await resumeAndCompare(output, plain, ["--overwrite"]);
      expect(existsSync(`${output}.replaced`), `call ${call}`).toBe(false);
      rmSync(output, { recursive: true });
    }
    expect(unfinished).toBeGreaterThan(1);
  });
});

/** A run killed after some tensors. */
async function stopped(flags: readonly string[] = [], record = 9): Promise<string> {
  const output = freshOutput();
  const { signal } = await surgery(output, flags, {
    preload: KILL_SWITCH,
    env: { PHYSARIUM_KILL: `ledger:${record}` },
  });
  expect(signal).toBe("SIGKILL");
  return output;
}

describe("--resume", () => {
  test("checks the digest of what is done: a damaged tensor is done again", async () => {
    const output = await stopped();
    const ledger = readFileSync(join(`${output}.partial`, "physarium/ledger.jsonl"), "utf8");
    const records = ledger
      .split("\n")
      .slice(0, -1)
      .map((line) => JSON.parse(line));
    const target = records.find(({ kind, role }) => kind === "tensor" && role === "target");
    const path = join(`${output}.partial`, target.shard);
    const bytes = readFileSync(path);
    bytes[target.byte_offset + 1000] ^= 0x40;
    writeFileSync(path, bytes);
    const { status, stderr } = await surgery(output, ["--resume"]);
    expect(status, stderr).toBe(0);
    const done = records.filter(({ kind }) => kind === "tensor").length;
    expect(stderr).toContain(`${done - 1} of 18 tensors are done and unchanged, 1 will be done again`);
    expect(filesOf(output)).toEqual(plain.files);
    expect(ledgerOf(output)).toEqual(plain.ledger);
  });

  test("a shard that is gone or shortened is done again", async () => {
    const output = await stopped();
    rmSync(join(`${output}.partial`, "model-00001-of-00003.safetensors"));
    const { status } = await surgery(output, ["--resume"]);
    expect(status).toBe(0);
    expect(filesOf(output)).toEqual(plain.files);
  });

  test("a ledger whose end a power cut left as zeros is taken up to there", async () => {
    const output = await stopped();
    const path = join(`${output}.partial`, "physarium/ledger.jsonl");
    writeFileSync(path, Buffer.concat([readFileSync(path), Buffer.alloc(300), Buffer.from("\n{}\n")]));
    const { status, stderr } = await surgery(output, ["--resume"]);
    expect(status, stderr).toBe(0);
    expect(filesOf(output)).toEqual(plain.files);
    expect(ledgerOf(output)).toEqual(plain.ledger);
  });

  test("works with another number of workers and from another spelling of the paths", async () => {
    const output = await stopped(["--workers", "1"]);
    const link = join(folder, "link-to-donor");
    symlinkSync(donor, link);
    const { status } = await physarium([
      "surgery",
      link,
      join(folder, ".", "donor", "..", output.slice(folder.length + 1)),
      ...PARAMS,
      "--workers",
      "2",
      "--resume",
    ]);
    expect(status).toBe(0);
    expect(butCard(filesOf(output))).toEqual(butCard(plain.files));
  });

  test.each([
    [["--flow", "balanced"], 'flow was "magnitude" and is "balanced"'],
    [["--survival", "0.4"], "survival was 0.355 and is 0.4"],
    [["--n-iter", "31"], "n_iter was 30 and is 31"],
    [["--beta", "2.5"], "beta was 2 and is 2.5"],
    [["--block-size", "128"], "block_size was 64 and is 128"],
    [["--exclude", "up_proj"], 'exclude was null and is "up_proj"'],
    [["--include", "proj"], 'include was null and is "proj"'],
    [["--target-sparsity", "0.5"], "target_sparsity was null and is 0.5"],
    [["--allow-non-finite"], "allow_non_finite was false and is true"],
  ])("is refused with other parameters: %j", async (flags, difference) => {
    // One stopped run serves all: a refusal changes nothing.
    const output = join(folder, "refusals");
    if (!existsSync(`${output}.partial`)) {
      await surgery(output, [], { preload: KILL_SWITCH, env: { PHYSARIUM_KILL: "ledger:9" } });
    }
    const before = filesOf(`${output}.partial`);
    const { status, stderr } = await surgery(output, ["--resume", ...flags]);
    expect(status).toBe(2);
    const [error] = eventsOf(stderr).filter(({ event }) => event === "error");
    expect(error.code).toBe("USAGE_RESUME_MISMATCH");
    expect(error.message).toContain(difference);
    expect(filesOf(`${output}.partial`)).toEqual(before);
  });

  test("is refused with another version, and with a donor that changed, saying which file", async () => {
    const output = await stopped();
    const path = join(`${output}.partial`, "physarium/ledger.jsonl");
    const ledger = readFileSync(path, "utf8");
    writeFileSync(path, ledger.replace(/"physarium_version":"[^"]*"/, '"physarium_version":"0.0.1"'));
    expect((await surgery(output, ["--resume"])).stderr).toMatch(/physarium_version was \\"0\.0\.1\\" and is/);
    writeFileSync(path, ledger);

    const changed = join(folder, "changed-donor");
    await cp(donor, changed, { recursive: true, preserveTimestamps: true });
    const resume = () => physarium(["surgery", changed, output, ...PARAMS, "--resume"]);
    const shard = join(changed, "model-00002-of-00003.safetensors");
    const bytes = readFileSync(shard);
    // Another header of the same length: two names of the same length swapped.
    const text = bytes.toString("latin1");
    writeFileSync(shard, Buffer.from(text.replace("empty.1", "empty.9"), "latin1"));
    const index = join(changed, "model.safetensors.index.json");
    writeFileSync(index, readFileSync(index, "utf8").replace("empty.1", "empty.9"));
    const { status, stderr } = await resume();
    expect([status, stderr]).toEqual([
      2,
      expect.stringContaining("model-00002-of-00003.safetensors has another header"),
    ]);
  });

  test("goes on with a donor that was copied and touched: what was made of it is made again", async () => {
    const output = await stopped();
    const copy = join(folder, "touched-donor");
    await cp(donor, copy, { recursive: true, preserveTimestamps: true });
    utimesSync(join(copy, "model-00002-of-00003.safetensors"), 1, 1);
    const { status, stderr } = await physarium(["surgery", copy, output, ...PARAMS, "--resume"]);
    expect(status, stderr).toBe(0);
    expect(stderr).toMatch(/touched or copied since: .*model-00002/);
    expect(butCard(filesOf(output))).toEqual(butCard(plain.files));
  });

  test("with nothing to resume starts from the beginning and says so; on a finished output it says so and exits 0", async () => {
    const output = freshOutput();
    const first = await surgery(output, ["--resume"]);
    expect(first.status).toBe(0);
    expect(first.stderr).toContain("there is nothing to resume; starting from the beginning");
    expect(filesOf(output)).toEqual(plain.files);
    const ledger = readFileSync(join(output, "physarium/ledger.jsonl"));
    const second = await physarium(["surgery", donor, output, "--block-size", "64", "--resume"]);
    expect(second.status).toBe(0);
    expect(second.stdout).toContain("the operation is finished already; nothing was done");
    expect(readFileSync(join(output, "physarium/ledger.jsonl")).equals(ledger)).toBe(true);
    const other = await surgery(output, ["--resume", "--survival", "0.2"]);
    expect(other.stderr).toContain("USAGE_RESUME_MISMATCH");
  });

  test("is offered, with --overwrite, where an unfinished run stands", async () => {
    const output = await stopped();
    const { status, stderr } = await physarium(["surgery", donor, output, "--block-size", "64"]);
    expect(status).toBe(2);
    expect(stderr).toMatch(/the command that began it once more with --resume .* any command with --overwrite/);
    expect(stderr).toContain("[USAGE_UNFINISHED]");
    expect((await surgery(output, ["--overwrite", "--survival", "0.2"])).status).toBe(0);
    expect(filesOf(output)).not.toEqual(plain.files);
  });

  test("takes an empty partial folder, and none of somebody else's", async () => {
    const output = freshOutput();
    mkdirSync(`${output}.partial/physarium`, { recursive: true });
    expect((await surgery(output, [])).stderr).toContain("USAGE_UNFINISHED");
    await resumeAndCompare(output, plain);
    const foreign = freshOutput();
    mkdirSync(`${foreign}.partial`);
    writeFileSync(join(`${foreign}.partial`, "thesis.txt"), "years of work");
    for (const flags of [[], ["--resume"], ["--overwrite"]]) {
      expect((await surgery(foreign, flags)).stderr).toContain("USAGE_OUTPUT_EXISTS");
    }
    expect(readFileSync(join(`${foreign}.partial`, "thesis.txt"), "utf8")).toBe("years of work");
  });
});
