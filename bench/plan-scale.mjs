// How long and how much memory does `plan` take on an index of 100,000 tensors in 200 shards (a trillion-parameter
// mixture of experts)? The donor is made of sparse files: headers are real, weights are holes.
//
//   npm run build && node bench/plan-scale.mjs [--tensors 100000] [--shards 200] [--folder DIR] [--keep]
import { spawnSync } from "node:child_process";
import { closeSync, ftruncateSync, mkdirSync, mkdtempSync, openSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { cpus, loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { serializeHeader } from "../dist/safetensors/writer.js";

const { values } = parseArgs({
  options: {
    tensors: { type: "string", default: "100000" },
    shards: { type: "string", default: "200" },
    folder: { type: "string" },
    keep: { type: "boolean", default: false },
  },
});
const tensorCount = Number(values.tensors);
const shardCount = Number(values.shards);
const MAIN = fileURLToPath(new URL("../dist/cli/main.js", import.meta.url));
const TIMED = `process.on("exit", () => process.stderr.write(JSON.stringify({ cpu: (process.resourceUsage().userCPUTime + process.resourceUsage().systemCPUTime) / 1e6, peak: process.resourceUsage().maxRSS * 1024 }) + "\\n"));`;

/** Experts of layers, three projections each, 2048 × 7168 in BF16. */
function writeScaleDonor(folder) {
  mkdirSync(folder, { recursive: true });
  const kinds = ["gate_proj", "up_proj", "down_proj"];
  const experts = 384;
  const map = [];
  const number = (n) => String(n).padStart(5, "0");
  let next = 0;
  let weights = 0;
  for (let shard = 1; shard <= shardCount; shard++) {
    const file = `model-${number(shard)}-of-${number(shardCount)}.safetensors`;
    const end = Math.floor((tensorCount * shard) / shardCount);
    const tensors = [];
    for (; next < end; next++) {
      const layer = Math.floor(next / (3 * experts));
      const expert = Math.floor(next / 3) % experts;
      const kind = kinds[next % 3];
      const shape = kind === "down_proj" ? [7168, 2048] : [2048, 7168];
      tensors.push({ name: `model.layers.${layer}.mlp.experts.${expert}.${kind}.weight`, dtype: "BF16", shape });
      weights += 2048 * 7168;
    }
    const { bytes, fileByteLength } = serializeHeader(tensors);
    const descriptor = openSync(join(folder, file), "w");
    writeSync(descriptor, bytes);
    ftruncateSync(descriptor, fileByteLength);
    closeSync(descriptor);
    for (const { name } of tensors) map.push(`${JSON.stringify(name)}:"${file}"`);
  }
  writeFileSync(join(folder, "model.safetensors.index.json"), `{"weight_map":{${map.join(",\n")}}}`);
  writeFileSync(join(folder, "config.json"), "{}");
  return weights;
}

const folder = values.folder ?? mkdtempSync(join(tmpdir(), "physarium-plan-scale-"));
try {
  const weights = writeScaleDonor(folder);
  console.log(
    `${tensorCount} tensors in ${shardCount} shards, ${(weights / 1e12).toFixed(2)} trillion weights, sparse files; load ${loadavg()[0].toFixed(1)}; node ${process.version}, ${cpus().length} × ${cpus()[0].model}`,
  );
  for (const flags of [[], ["--json"]]) {
    for (let repeat = 0; repeat < 3; repeat++) {
      const started = performance.now();
      const { status, stdout, stderr } = spawnSync(
        process.execPath,
        ["--import", `data:text/javascript,${encodeURIComponent(TIMED)}`, MAIN, "plan", folder, ...flags],
        { encoding: "utf8", maxBuffer: 1 << 30 },
      );
      if (status !== 0) throw new Error(stderr);
      const seconds = (performance.now() - started) / 1000;
      const { cpu, peak } = JSON.parse(stderr.trim().split("\n").at(-1));
      console.log(
        `plan ${flags.join(" ").padEnd(6)}  ${seconds.toFixed(2)} s wall (target 3)  ${cpu.toFixed(2)} s CPU  ${(peak / 2 ** 20).toFixed(0)} MiB peak (target 512)  ${stdout.length} characters`,
      );
    }
  }
} finally {
  if (!values.keep && values.folder === undefined) rmSync(folder, { recursive: true });
}
