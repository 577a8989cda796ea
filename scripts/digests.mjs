// Digests of everything the commands write for the embedded donor: a refactoring that changes one changed an output.
//
//   node scripts/digests.mjs            print the table
//   node scripts/digests.mjs --check    compare with test/fixtures/digests.json; exit 1 where they differ
//   node scripts/digests.mjs --write    write that fixture
//   … --only v1,pack                    only these rows
//
// Files outside physarium/ are digested byte for byte. Ledger and surgery.json without what differs from run to run:
// times, paths, memory, versions. Rows of commands that run the engine depend on its kernels, so on the processor:
// the fixture says on which it was made.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const FIXTURE = join(ROOT, "test/fixtures/digests.json");
const LOAM = join(ROOT, "examples/donors/loam");
const TEXT = join(ROOT, "examples/texts/loam-stories.txt");
/** Fields of the records that tell of the run, not of the output. */
const VOLATILE = new Set([
  "at",
  "path",
  "donor",
  "seconds",
  "wall_seconds",
  "started_at",
  "ended_at",
  "peak_rss_bytes",
  "physarium_version",
  "format_version",
  "fingerprint",
  "modified_ns",
  "shards",
  "runs",
  "timeline",
  "identity",
]); // prettier-ignore

const calibration = ["--calibration", TEXT, "--samples", "4", "--window", "64", "--seed", "1"];

/** Row name → arguments, with {o} for the output and {v1}, {packed}, {gguf} for what an earlier row wrote. */
const ROWS = {
  v1: ["surgery", LOAM, "{o}"],
  "v1-half": ["surgery", LOAM, "{o}", "--target-sparsity", "0.5", "--block-size", "64", "--workers", "2"],
  balanced: ["surgery", LOAM, "{o}", "--flow", "balanced"],
  pack: ["pack", "{v1}", "{o}"],
  unpack: ["unpack", "{pack}", "{o}"],
  sparse: ["export", "{v1}", "{o}", "--format", "compressed-tensors"],
  "sparse-import": ["import", "{sparse}", "{o}"],
  ...Object.fromEntries(
    ["f32", "f16", "bf16", "q8_0", "q6_k", "q4_k", "q4_0"].map((type) => [
      `gguf-${type}`,
      ["export", "{v1}", "{o}.gguf", "--type", type],
    ]),
  ),
  "gguf-import": ["import", "{gguf-q8_0}.gguf", "{o}"],
  synth: ["synth", LOAM, "{o}", "--seed", "7"],
};
/** These run the engine. */
const ENGINE_ROWS = {
  v2: ["surgery", LOAM, "{o}", "--flow", "activation", "--target-sparsity", "0.5", ...calibration],
  "v2-pattern": ["surgery", LOAM, "{o}", "--flow", "activation", "--pattern", "2:4", "--gram", "tile", ...calibration],
  calibrate: ["calibrate", LOAM, "--text", TEXT, "--out", "{o}.safetensors", ...calibration.slice(2)],
};

function stripped(value) {
  if (Array.isArray(value)) return value.map(stripped);
  if (value === null || typeof value !== "object") return value;
  const kept = Object.entries(value).filter(([key]) => !VOLATILE.has(key) && !key.endsWith("_seconds"));
  return Object.fromEntries(kept.sort(([a], [b]) => (a < b ? -1 : 1)).map(([key, member]) => [key, stripped(member)]));
}

function recordsOf(path) {
  if (path.endsWith("surgery.json")) return JSON.stringify(stripped(JSON.parse(readFileSync(path, "utf8"))));
  const records = readFileSync(path, "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.stringify(stripped(JSON.parse(line))));
  return records
    .filter((line) => /"kind":"(tensor|side_file|warning|shard)"/.test(line))
    .sort()
    .join("\n");
}

function filesUnder(path) {
  if (!statSync(path).isDirectory()) return [path];
  return readdirSync(path, { recursive: true, encoding: "utf8" })
    .map((name) => join(path, name))
    .filter((file) => statSync(file).isFile())
    .sort();
}

/**
 * One digest of a file or folder: names and bytes of everything outside physarium/, and of its records what is no
 * accident.
 */
function digestOf(path) {
  const hash = createHash("sha256");
  for (const file of filesUnder(path)) {
    const name = relative(path, file);
    // The pack's manifest lists the records that it copied, and those tell of the run.
    if (name === "physarium-pack.json")
      hash.update(readFileSync(file, "utf8").replaceAll(/\{[^{}]*"file": ?"physarium\/[^{}]*\}/g, ""));
    else if (!name.startsWith("physarium/")) hash.update(`${name}\0`).update(readFileSync(file));
    else if (/(ledger\.jsonl|surgery\.json)$/.test(name)) hash.update(`${name}\0`).update(recordsOf(file));
  }
  return hash.digest("hex").slice(0, 32);
}

function run(folder, rows) {
  const table = {};
  for (const [name, args] of Object.entries(rows)) {
    const filled = args.map((each) =>
      each.replace("{o}", join(folder, name)).replace(/\{([a-z0-9_-]+)\}/, (_, row) => join(folder, row)),
    );
    const { status, stderr } = spawnSync(process.execPath, [join(ROOT, "dist/cli/main.js"), ...filled, "--json"], {
      encoding: "utf8",
      maxBuffer: 1 << 28,
    });
    if (status !== 0) throw new Error(`${name}: exit ${status}\n${stderr}`);
    const output = filled.find((each) => each.startsWith(join(folder, name)));
    table[name] = digestOf(output);
    console.log(`${table[name]}  ${name}`);
  }
  return table;
}

const [mode] = process.argv.slice(2).filter((each) => each.startsWith("--") && each !== "--only");
const onlyAt = process.argv.indexOf("--only");
const only = onlyAt < 0 ? undefined : process.argv[onlyAt + 1].split(",");
const chosen = (rows) =>
  only === undefined ? rows : Object.fromEntries(Object.entries(rows).filter(([name]) => only.includes(name)));
const processor = cpus()[0]?.model ?? "unknown";
const folder = mkdtempSync(join(tmpdir(), "physarium-digests-"));
try {
  const found = { processor, files: run(folder, chosen(ROWS)), engine: run(folder, chosen(ENGINE_ROWS)) };
  if (mode === "--write") writeFileSync(FIXTURE, `${JSON.stringify(found, null, 2)}\n`);
  if (mode === "--check") {
    const expected = JSON.parse(readFileSync(FIXTURE, "utf8"));
    const sameProcessor = expected.processor === processor;
    if (!sameProcessor)
      console.log(`engine rows were made on ${expected.processor}, this is ${processor}: not compared`);
    const compared = { ...found.files, ...(sameProcessor ? found.engine : {}) };
    const wanted = { ...expected.files, ...expected.engine };
    const differing = Object.keys(compared).filter((name) => compared[name] !== wanted[name]);
    console.log(differing.length === 0 ? "everything is as before" : `different: ${differing.join(", ")}`);
    if (differing.length > 0) process.exitCode = 1;
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
