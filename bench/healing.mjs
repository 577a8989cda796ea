// How far healing moves the weights that survive: what the limits of `verify` stand on (src/audit/healing-limits.ts).
//
//   node bench/healing.mjs [donor] [text]
//
// Operates on the donor by the activation flow in several ways and prints, as a Markdown table, the range of the ledger's evidence over all targets.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const [donor = join(ROOT, "examples/donors/loam"), text = join(ROOT, "examples/texts/loam-stories.txt")] =
  process.argv.slice(2);

/** What is said of it, the flags, samples of so many tokens. */
const WAYS = [
  ["what starves", [], 4, 64],
  ["50 %", ["--target-sparsity", "0.5"], 4, 64],
  ["50 %", ["--target-sparsity", "0.5"], 64, 64],
  ["2:4, tiled Grams", ["--pattern", "2:4", "--gram", "tile"], 4, 64],
  ["70 %", ["--target-sparsity", "0.7"], 32, 64],
  ["90 %", ["--target-sparsity", "0.9"], 32, 64],
  ["97 %", ["--target-sparsity", "0.97"], 1, 32],
];

const folder = mkdtempSync(join(tmpdir(), "physarium-healing-"));
try {
  console.log("| operation | calibrated on | output error | cosine | signs kept | largest row gain | rows turned |");
  console.log("|---|--:|--:|--:|--:|--:|--:|");
  for (const [number, [words, flags, samples, window]] of WAYS.entries()) {
    const output = join(folder, `${number}`);
    const calibration = ["--calibration", text, "--samples", `${samples}`, "--window", `${window}`];
    const args = ["surgery", donor, output, "--flow", "activation", ...flags, ...calibration, "--quiet"];
    execFileSync(process.execPath, [join(ROOT, "dist/cli/main.js"), ...args]);
    const records = readFileSync(join(output, "physarium/ledger.jsonl"), "utf8")
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line));
    const evidence = records.flatMap((record) => (record.evidence === undefined ? [] : [record.evidence]));
    const range = (key, digits) => {
      const values = evidence.map((each) => each[key]);
      return [Math.min(...values), Math.max(...values)].map((value) => value.toFixed(digits)).join("–");
    };
    const gain = Math.max(...evidence.map((each) => each.largest_row_gain)).toFixed(2);
    const turned = Math.max(...evidence.map((each) => each.rows_turned));
    console.log(
      `| ${words} | ${samples * window} tokens | ${range("output_error", 2)} | ${range("survivor_cosine", 3)} | ` +
        `${range("signs_kept", 3)} | ${gain} | ${turned} |`,
    );
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
