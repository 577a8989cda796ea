// Does llama.cpp compute what the reference computed? Each tiny model of ../shared/oracle is exported to GGUF, llama.cpp
// (bench/llama-engine.mjs says how to install it) scores the reference's windows, and the mean is compared with the
// reference's own in expected.json.
//
//   node bench/llama-families.mjs [--only gpt2,falcon] [--types f32,f16,bf16] [--models <folder>]
//
// A model that cannot be exported says why. Exit 1 where a type differs by more than 0.2 %.
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { exportGguf } from "../dist/export/gguf/export.js";
import { openLlama, openModel } from "./llama-engine.mjs";

const { values } = parseArgs({
  options: {
    only: { type: "string" },
    types: { type: "string", default: "f32,f16,bf16" },
    models: { type: "string" },
  },
});
const shared = fileURLToPath(new URL("../../shared", import.meta.url));
const oracle = values.models ?? join(shared, "oracle");
const llama = await openLlama();
if (llama === undefined) {
  console.log("skipped: node-llama-cpp is not installed; bench/llama-engine.mjs says how");
  process.exit(0);
}
const found = ["expected.json", "oracle.json"].map((name) => join(oracle, name)).find(existsSync);
const expected = JSON.parse(readFileSync(found, "utf8"));
const ids = [...readFileSync(join(shared, "oracle/text.txt"))];
const WINDOW = 64;
const windows = Array.from({ length: 8 }, (_, at) => ids.slice(at * WINDOW, (at + 1) * WINDOW));
const scratch = mkdtempSync(join(tmpdir(), "physarium-families-"));
const only = values.only?.split(",");

console.log("| model | architecture | type | reference | llama.cpp | difference of perplexity |");
console.log("|---|---|---|---|---|---|");
let failed = false;
try {
  for (const name of readdirSync(oracle).sort()) {
    if (!statSync(join(oracle, name)).isDirectory() || expected[name] === undefined) continue;
    if (only !== undefined && !only.includes(name)) continue;
    for (const type of values.types.split(",")) {
      const path = join(scratch, `${name}-${type}.gguf`);
      let result;
      try {
        result = await exportGguf(join(oracle, name), path, { type: type.toUpperCase() });
      } catch (error) {
        console.log(`| ${name} | | | | | not exported: ${error.message} |`);
        break;
      }
      try {
        const engine = await openModel(llama, path, WINDOW);
        let sum = 0;
        let count = 0;
        for (const window of windows) {
          const scores = await engine.nll(window);
          for (const nll of scores) sum += nll;
          count += scores.length;
        }
        await engine.close();
        const theirs = sum / count;
        const reference = expected[name].mean_nll ?? expected[name].nll;
        const difference = 100 * (Math.exp(theirs - reference) - 1);
        const isWrong = !(Math.abs(difference) <= 0.2);
        failed ||= isWrong;
        const numbers = `${reference.toFixed(5)} | ${theirs.toFixed(5)} | ${difference.toFixed(4)} %`;
        console.log(`| ${name} | ${result.architecture} | ${type} | ${numbers}${isWrong ? " <-- TOO FAR" : ""} |`);
      } catch (error) {
        failed = true;
        console.log(
          `| ${name} | ${result.architecture} | ${type} | | | llama.cpp: ${String(error.message).slice(0, 160)} |`,
        );
      }
      rmSync(path, { force: true });
    }
  }
} finally {
  rmSync(scratch, { recursive: true });
}
// The engine keeps threads alive.
process.exit(failed ? 1 : 0);
