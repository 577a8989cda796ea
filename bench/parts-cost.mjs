// What an operation in parts costs by the gigabyte, on real numbers: a synthetic donor in one file (so that every part is cut
// out of it and joined again), surgery on one machine, then prepare, the parts one after the other, each a process of its
// own, and finish. Check first, then time: the digests of both outputs are equal.
//
//   node bench/parts-cost.mjs --megabytes 2000 --parts 16
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { printMachine, printTable } from "./machine.mjs";

const MAIN = fileURLToPath(new URL("../dist/cli/main.js", import.meta.url));
const { values } = parseArgs({
  options: { megabytes: { type: "string", default: "2000" }, parts: { type: "string", default: "16" } },
});
const folder = mkdtempSync(join(tmpdir(), "physarium-bench-parts-"));
const at = (name) => join(folder, name);

function timed(...args) {
  const started = performance.now();
  const { status, stderr } = spawnSync(process.execPath, [MAIN, ...args, "--quiet"], { encoding: "utf8" });
  if (status !== 0) throw new Error(stderr);
  return (performance.now() - started) / 1000;
}

printMachine();
try {
  const hidden = Math.max(64, 64 * Math.round(Math.sqrt((Number(values.megabytes) * 1e6) / 224) / 64));
  mkdirSync(at("config"));
  const config = {
    ...{ model_type: "llama", architectures: ["LlamaForCausalLM"], hidden_size: hidden, intermediate_size: 3 * hidden },
    ...{ num_hidden_layers: 8, num_attention_heads: 8, num_key_value_heads: 8, vocab_size: 4 * hidden },
    ...{ torch_dtype: "bfloat16", tie_word_embeddings: false, rms_norm_eps: 1e-5, max_position_embeddings: 2048 },
  };
  writeFileSync(at("config/config.json"), JSON.stringify(config));
  timed("synth", at("config"), at("donor"));
  const one = timed("surgery", at("donor"), at("one"));
  const rows = [["step", "seconds", "seconds a GB", "load"]];
  const load = () => loadavg()[0].toFixed(1);
  const prepare = timed("parts", "prepare", at("donor"), at("output"), "--max-parts", values.parts);
  const { parts } = JSON.parse(readFileSync(at("output.parts/parts.json"), "utf8"));
  const runs = parts.map(({ part }) => timed("parts", "run", at("output"), "--part", String(part)));
  const running = runs.reduce((sum, seconds) => sum + seconds, 0);
  const finish = timed("parts", "finish", at("output"));
  const { donor, parts: joined } = JSON.parse(readFileSync(at("output/physarium/surgery.json"), "utf8"));
  const digests = (output) =>
    readFileSync(join(at(output), "physarium/ledger.jsonl"), "utf8")
      .split("\n")
      .flatMap((line) => /"name":"[^"]*".*?"digest":"([0-9a-f]+)"/.exec(line)?.[1] ?? [])
      .sort()
      .join();
  if (digests("one") !== digests("output")) throw new Error("the digests differ");
  const gigabytes = donor.total_size / 1e9;
  const row = (step, seconds) => rows.push([step, seconds.toFixed(2), (seconds / gigabytes).toFixed(2), load()]);
  row("surgery on one machine", one);
  row("prepare", prepare);
  row(`${parts.length} parts, one after the other`, running);
  row("finish", finish);
  row("  of it checking, joining, recording", joined.join_seconds);
  console.log(`${donor.total_size} bytes, ${donor.tensor_count} tensors; digests of both outputs are equal\n`);
  printTable(rows);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
