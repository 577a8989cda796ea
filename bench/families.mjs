// How far eval's forward pass is from the reference library's, family by family.
//
//   node bench/families.mjs <folder> <text> [name …]
//
// <folder> holds a model a sub-folder, and expected.json ({ name: { mean_nll } }) or oracle.json ({ name: { nll } }): what the reference finds in f32 over the
// first eight windows of 64 tokens of <text>. Prints a Markdown table: the difference in nats a token, or why there is none.
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const MAIN = fileURLToPath(new URL("../dist/cli/main.js", import.meta.url));
const [folder, text, ...chosen] = process.argv.slice(2);
const file = ["expected.json", "oracle.json"].map((name) => join(folder, name)).find(existsSync);
const expected = JSON.parse(readFileSync(file, "utf8"));

let agreeing = 0;
let tried = 0;
console.log("| model | difference, nats a token |\n|---|---|");
for (const [name, found] of Object.entries(expected)) {
  if (chosen.length > 0 && !chosen.includes(name)) continue;
  tried++;
  const args = [MAIN, "eval", join(folder, name), "--text", text, "--window", "64", "--limit", "8", "--json"];
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: "utf8" });
  if (status !== 0) {
    const line = stderr.trimEnd().split("\n").at(-1) ?? "";
    console.log(`| ${name} | refused: ${JSON.parse(line).message.split(";")[0]} |`);
    continue;
  }
  const nll = Number(/"mean_nll":([-\d.e]+)/.exec(stdout)[1]);
  const difference = nll - (found.mean_nll ?? found.nll);
  if (Math.abs(difference) < 1e-5) agreeing++;
  console.log(`| ${name} | ${difference.toExponential(1)} |`);
}
console.log(`\n${agreeing} of ${tried} within 1e-5 nats`);
