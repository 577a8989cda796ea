// v2 and v3 beside every baseline, over several draws of calibration samples: damage (ln perplexity − ln dense
// perplexity), mean ± standard deviation, and mean damage of v2 and v3 relative to that of SparseGPT and of ALPS selecting
// per row. Usage:
//   node bench/baselines.mjs <donor> --text FILE [--targets 0.25,0.5,0.6,2:4] [--methods all] [--seeds 1,2,3]
//     [--matched] [--match-rounds N] [--distil STEPS] [--answers N] [--samples 256] [--limit 512] [--window 128] [--rows]
import { parseArgs } from "node:util";
import { chooseMethods } from "../dist/methods/registry.js";
import { methodTitle } from "../dist/report/comparison.js";
import { compareOnce, DAMAGE_FLAGS, mean, meanAndSpread, seedsOf } from "./damage.mjs";
import { printMachine } from "./machine.mjs";

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    ...DAMAGE_FLAGS,
    methods: { type: "string", default: "all" },
    matched: { type: "boolean", default: false },
    "match-rounds": { type: "string" },
    distil: { type: "string" },
    answers: { type: "string" },
  },
});
const methods = chooseMethods(flags.methods.split(","));
const titles = Object.fromEntries(methods.map(({ name, title }) => [name, title]));
const words = flags.targets.split(",");
const targetOf = ({ pattern, sparsity }) => pattern ?? `${sparsity}`;
const records = [];
for (const seed of seedsOf(flags)) {
  records.push(
    await compareOnce(positionals[0], flags, seed, {
      methods,
      thenMatched: flags.matched,
      ...(flags["match-rounds"] === undefined ? {} : { match: { rounds: Number(flags["match-rounds"]) } }),
      ...(flags.distil === undefined ? {} : { distil: Number(flags.distil) }),
      ...(flags.answers === undefined ? {} : { answers: Number(flags.answers) }),
      onRow: (_, row) =>
        process.stderr.write(
          `seed ${seed}, ${targetOf(row)}, ${methodTitle(row, {})}: ${row.damage.toFixed(4)}, ${row.seconds.toFixed(1)} s\n`,
        ),
    }),
  );
}

printMachine();
const { dense } = records[0];
console.log(`dense perplexity ${dense.perplexity.toFixed(3)} on ${dense.tokens} predictions, seeds ${flags.seeds}\n`);

/** Rows of one target that stand for the same thing, one a seed. */
const keyOf = (row) => JSON.stringify([row.method, row.then, row.distil_steps]);
const keys = [...new Set(records[0].rows.map(keyOf))];
const rowsOf = (key, target) =>
  records.map(({ rows }) => rows.find((row) => keyOf(row) === key && targetOf(row) === target));
const table = (title, written) => {
  console.log(`| ${title} | ${words.join(" | ")} | seconds |\n|---|${words.map(() => "---:|").join("")}---:|`);
  for (const key of keys) {
    const cells = words.map((word) => written(rowsOf(key, word)));
    const seconds = mean(words.flatMap((word) => rowsOf(key, word).map((row) => row.seconds)));
    console.log(`| ${methodTitle(rowsOf(key, words[0])[0], titles)} | ${cells.join(" | ")} | ${seconds.toFixed(1)} |`);
  }
  console.log();
};
table("damage", (rows) => meanAndSpread(rows.map(({ damage }) => damage)));
const damageOf = (key, word) => mean(rowsOf(key, word).map(({ damage }) => damage));
for (const own of keys.filter((key) => /^."(activation|matched)"/.test(key))) {
  for (const [name, title] of [
    ["sparsegpt", "SparseGPT"],
    ["alps-row", "ALPS per row"],
    ["activation", "v2"],
  ]) {
    const other = keyOf({ method: name });
    if (!keys.includes(other) || other === own) continue;
    const ratios = words.map((word) => (damageOf(own, word) / damageOf(other, word)).toFixed(3));
    console.log(`| ${methodTitle(rowsOf(own, words[0])[0], titles)} over ${title} | ${ratios.join(" | ")} | |`);
  }
}
console.log();
const [row] = records[0].rows;
const fields = { bits_per_byte: 4, kl_mean: 4, same_top: 4, repetition: 4 };
for (const tokens of [8, 16, 32]) fields[`same_answers_${tokens}`] = 4;
for (const [field, digits] of Object.entries(fields)) {
  if (row[field] === undefined) continue;
  table(field, (rows) => mean(rows.map((each) => each[field])).toFixed(digits));
}
