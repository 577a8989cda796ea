// v2 beside every baseline, over several draws of calibration samples: damage (ln perplexity − ln dense perplexity),
// mean ± standard deviation, and v2's mean damage relative to SparseGPT's and to ALPS's selecting per row. Usage:
//   node bench/baselines.mjs <donor> --text FILE [--targets 0.25,0.5,0.6,2:4] [--methods all] [--seeds 1,2,3]
// [--samples 256] [--limit 512] [--window 128]
import { parseArgs } from "node:util";
import { chooseMethods } from "../dist/methods/registry.js";
import { compareOnce, DAMAGE_FLAGS, mean, meanAndSpread, seedsOf } from "./damage.mjs";
import { printMachine } from "./machine.mjs";

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: { ...DAMAGE_FLAGS, methods: { type: "string", default: "all" } },
});
const methods = chooseMethods(flags.methods.split(","));
const words = flags.targets.split(",");
const records = [];
for (const seed of seedsOf(flags)) {
  records.push(
    await compareOnce(positionals[0], flags, seed, {
      methods,
      onRow: (_, row) =>
        process.stderr.write(
          `seed ${seed}, ${row.pattern ?? row.sparsity}, ${row.method}: ${row.damage.toFixed(4)}, ${row.seconds.toFixed(1)} s\n`,
        ),
    }),
  );
}

printMachine();
const { dense } = records[0];
console.log(`dense perplexity ${dense.perplexity.toFixed(3)} on ${dense.tokens} predictions, seeds ${flags.seeds}\n`);
console.log(`| method | ${words.join(" | ")} | seconds |\n|---|${words.map(() => "---:|").join("")}---:|`);
const rowsOf = (method, target) =>
  records.map(({ rows }) => rows.find((row) => row.method === method && (row.pattern ?? `${row.sparsity}`) === target));
for (const { name, title } of methods) {
  const cells = words.map((word) => meanAndSpread(rowsOf(name, word).map(({ damage }) => damage)));
  const seconds = mean(words.flatMap((word) => rowsOf(name, word).map((row) => row.seconds)));
  console.log(`| ${title} | ${cells.join(" | ")} | ${seconds.toFixed(1)} |`);
}
const damageOf = (method, word) => mean(rowsOf(method, word).map(({ damage }) => damage));
for (const [name, title] of [
  ["sparsegpt", "SparseGPT"],
  ["alps-row", "ALPS per row"],
]) {
  if (!methods.some((method) => method.name === name)) continue;
  const ratios = words.map((word) => (damageOf("activation", word) / damageOf(name, word)).toFixed(3));
  console.log(`| v2's damage over that of ${title} | ${ratios.join(" | ")} | |`);
}
