// One operation in many parts: what `prepare`, `status` and `finish` take on 100,000 tensors in sparse files, from 1 to 10,000
// parts, in seconds and MiB. Up to 200 parts are run in this process. Of more only the first is run: all tensors are zeros of
// one shape, so what the others would leave is written as that one left it, and finish holds every digest against the bytes.
// --rows makes the tensors (256 columns, BF16) larger.
//
//   node bench/parts.mjs
//   node bench/parts.mjs --parts 1,10000 --tensors 100000
//   node bench/parts.mjs --plan-only                         prepare and status alone
import { spawnSync } from "node:child_process";
import {
  closeSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { runPart } from "../dist/parts/part-run.js";
import { serializeHeader } from "../dist/safetensors/writer.js";
import { printMachine, printTable } from "./machine.mjs";

const MAIN = fileURLToPath(new URL("../dist/cli/main.js", import.meta.url));
const { values } = parseArgs({
  options: {
    parts: { type: "string", default: "1,100,10000" },
    tensors: { type: "string", default: "100000" },
    shards: { type: "string", default: "200" },
    rows: { type: "string", default: "16" },
    "plan-only": { type: "boolean", default: false },
  },
});
const tensorCount = Number(values.tensors);
const shardCount = Number(values.shards);
const TIMED = `process.on("exit", () => process.stderr.write("\\n" + JSON.stringify({ cpu: (process.resourceUsage().userCPUTime + process.resourceUsage().systemCPUTime) / 1e6, peak: process.resourceUsage().maxRSS * 1024 }) + "\\n"));`;

/** Experts of layers, three projections each, all of one small shape; files without a written byte behind the header. */
function writeDonor(folder) {
  mkdirSync(folder);
  const map = [];
  const number = (n) => String(n).padStart(5, "0");
  let bytes = 0;
  for (let shard = 1, next = 0; shard <= shardCount; shard++) {
    const file = `model-${number(shard)}-of-${number(shardCount)}.safetensors`;
    const tensors = [];
    for (const end = Math.floor((tensorCount * shard) / shardCount); next < end; next++) {
      const kind = ["gate_proj", "up_proj", "down_proj"][next % 3];
      const [layer, expert] = [Math.floor(next / 1152), Math.floor(next / 3) % 384];
      const name = `model.layers.${layer}.mlp.experts.${expert}.${kind}.weight`;
      tensors.push({ name, dtype: "BF16", shape: [Number(values.rows), 256] });
      map.push(`${JSON.stringify(name)}:"${file}"`);
    }
    const { bytes: header, fileByteLength } = serializeHeader(tensors);
    const descriptor = openSync(join(folder, file), "w");
    writeSync(descriptor, header);
    ftruncateSync(descriptor, fileByteLength);
    closeSync(descriptor);
    bytes += fileByteLength;
  }
  writeFileSync(join(folder, "model.safetensors.index.json"), `{"weight_map":{${map.join(",\n")}}}`);
  writeFileSync(join(folder, "config.json"), "{}");
  return bytes;
}

const MOST_RUNS = 200;

/** Leave what the runs of all parts but the first would leave. */
function pretend(output) {
  const at = (name) => join(`${output}.parts`, name);
  const first = JSON.parse(readFileSync(at("part-0.done.json"), "utf8"));
  const [record] = first.tensors;
  for (const line of readFileSync(at("tensors.jsonl"), "utf8").trimEnd().split("\n").slice(1)) {
    const { part, shards } = JSON.parse(line);
    const tensors = shards.flatMap(({ file, tensors: mine }) =>
      mine.map(({ name, byte_offset, layer, projection }) => {
        return { ...record, name, shard: file, byte_offset, layer, projection };
      }),
    );
    const stretches = shards.map(({ file, whole, first_byte, end_byte }) => ({ file, whole, first_byte, end_byte }));
    for (const { file, whole, first_byte, end_byte } of stretches) {
      if (whole) throw new Error(`${file} is no slice: more parts, or fewer shards`);
      const descriptor = openSync(at(`slices/${file}.from-${first_byte}`), "w");
      ftruncateSync(descriptor, end_byte - first_byte);
      closeSync(descriptor);
    }
    const byte_length = stretches.reduce((sum, { first_byte, end_byte }) => sum + end_byte - first_byte, 0);
    writeFileSync(
      at(`part-${part}.done.json`),
      JSON.stringify({ ...first, part, byte_length, shards: stretches, tensors }),
    );
  }
}

/** Seconds and peak of one command. */
function timed(...args) {
  const started = performance.now();
  const preload = ["--import", `data:text/javascript,${encodeURIComponent(TIMED)}`];
  const { status, stdout, stderr } = spawnSync(process.execPath, [...preload, MAIN, "parts", ...args], {
    encoding: "utf8",
    maxBuffer: 1 << 30,
  });
  if (status !== 0) throw new Error(stderr);
  const seconds = (performance.now() - started) / 1000;
  const { cpu, peak } = JSON.parse(stderr.trim().split("\n").at(-1));
  return { seconds, cpu, peak, stdout };
}

const words = ({ seconds, cpu, peak }) =>
  `${seconds.toFixed(2)} s (CPU ${cpu.toFixed(2)}), ${(peak / 2 ** 20).toFixed(0)} MiB`;

printMachine();
const folder = mkdtempSync(join(tmpdir(), "physarium-bench-parts-"));
try {
  const donor = join(folder, "donor");
  const bytes = writeDonor(donor);
  console.log(`${tensorCount} tensors in ${shardCount} shards, ${bytes} bytes, sparse\n`);
  const rows = [
    ["parts", "prepare", "status", "a run alone", "all runs here", "status, all done", "finish", "parts.json"],
  ];
  for (const asked of values.parts.split(",").map(Number)) {
    const output = join(folder, `output-${asked}`);
    const prepare = timed("prepare", donor, output, "--max-parts", String(asked), "--json");
    const { part_count } = JSON.parse(prepare.stdout);
    const planBytes = statSync(join(`${output}.parts`, "parts.json")).size;
    const before = timed("status", output, "--json");
    if (values["plan-only"]) {
      rows.push([part_count, words(prepare), words(before), "", "", "", "", `${(planBytes / 1e6).toFixed(2)} MB`]);
      console.error(`${part_count} parts: planned, load ${loadavg()[0].toFixed(1)}`);
      continue;
    }
    const alone = timed("run", output, "--part", "0", "--workers", "1", "--quiet");
    const started = performance.now();
    if (part_count > MOST_RUNS) pretend(output);
    else for (let part = 1; part < part_count; part++) await runPart(output, part, { workers: 0 });
    const running = (performance.now() - started) / 1000;
    const after = timed("status", output, "--json");
    const finish = timed("finish", output, "--quiet");
    rmSync(output, { recursive: true });
    rows.push([
      part_count,
      words(prepare),
      words(before),
      words(alone),
      part_count > MOST_RUNS ? "pretended" : `${running.toFixed(0)} s`,
      words(after),
      words(finish),
      `${(planBytes / 1e6).toFixed(2)} MB`,
    ]);
    console.error(`${part_count} parts: done, load ${loadavg()[0].toFixed(1)}`);
  }
  printTable(rows);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
