// What each family of models can be put through, beside the reference library's number for its forward pass.
//
//   node bench/families.mjs <folder> <text> [name …] [--only plan,surgery,eval,v2,export,import,llama]
//
// <folder> holds a model a sub-folder, and expected.json ({ name: { mean_nll } }) or oracle.json ({ name: { nll } }):
// what the reference finds in f32 over the first eight windows of 64 tokens of <text>. Prints a Markdown table:
//
//   plan      share of the weights in the matrices of decoder layers that are targets
//   surgery   magnitude flow and verify against the donor, every tile
//   eval      our mean NLL minus the reference's, nats a token
//   v2        activation flow to half of the weights, calibrated on two windows of 64 tokens of <text>, and verify
//   export    to a GGUF file of f32
//   import    that file back, eval of it minus eval of the model, nats a token
//   llama     llama.cpp's NLL of the file over one window, relative to ours (bench/llama-engine.mjs says how to install)
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { verify } from "../dist/audit/verify.js";
import { openDonor } from "../dist/checkpoint/donor.js";
import { exportGguf } from "../dist/export/gguf/export.js";
import { importGguf } from "../dist/export/gguf/import.js";
import { evaluate } from "../dist/probe/evaluate.js";
import { operate } from "../dist/surgery/operation.js";
import { checkOptions } from "../dist/surgery/options.js";
import { planSurgery } from "../dist/surgery/plan.js";
import { openLlama, openModel } from "./llama-engine.mjs";

const { positionals, values } = parseArgs({ allowPositionals: true, options: { only: { type: "string" } } });
const [folder, text, ...chosen] = positionals;
const COLUMNS = ["plan", "surgery", "eval", "v2", "export", "import", "llama"];
const columns = COLUMNS.filter((column) => values.only === undefined || values.only.split(",").includes(column));
const file = ["expected.json", "oracle.json"].map((name) => join(folder, name)).find(existsSync);
const expected = JSON.parse(readFileSync(file, "utf8"));
const WINDOW = 64;
const scratch = mkdtempSync(join(tmpdir(), "physarium-families-"));
const llama = columns.includes("llama") ? await openLlama() : undefined;

const meanNll = async (model, limit = 8) =>
  (await evaluate(model, text, { window: WINDOW, limit })).quality.model.mean_nll;

async function operated(model, name, options) {
  const output = join(scratch, name);
  const plan = planSurgery(await openDonor(model), checkOptions(options));
  await operate(plan, { outputPath: output });
  const { ok, differences } = await verify(output, { donorPath: model, parity: "full" });
  rmSync(output, { recursive: true, force: true });
  return ok ? "holds" : `differs: ${differences[0]}`;
}

async function likelihood(path) {
  const engine = await openModel(llama, path, WINDOW);
  try {
    const ids = engine.tokenize(readFileSync(text, "utf8")).slice(0, WINDOW);
    const nll = await engine.nll(ids);
    return nll.reduce((sum, value) => sum + value, 0) / nll.length;
  } finally {
    await engine.close?.();
  }
}

/** One cell a column; a cell that needs an earlier one reads what that left. */
const WORK = {
  async plan({ model }) {
    const { decoder } = planSurgery(await openDonor(model), checkOptions({}));
    return `${(100 * decoder.fraction).toFixed(2)} %`;
  },
  surgery: ({ model }) => operated(model, "v1", {}),
  async eval(row) {
    row.nll = await meanNll(row.model);
    row.difference = row.nll - (row.reference.mean_nll ?? row.reference.nll);
    return row.difference.toExponential(1);
  },
  v2: ({ model }) =>
    operated(model, "v2", { flow: "activation", targetSparsity: 0.5, calibration: text, samples: 2, window: WINDOW }),
  async export(row) {
    const path = join(scratch, "model.gguf");
    await exportGguf(row.model, path, { type: "F32", overwrite: true });
    row.gguf = path;
    return "yes";
  },
  async import(row) {
    if (row.gguf === undefined) return "–";
    const back = join(scratch, "back");
    await importGguf(row.gguf, back, { dtype: "F32" });
    try {
      return ((await meanNll(back)) - row.nll).toExponential(1);
    } finally {
      rmSync(back, { recursive: true, force: true });
    }
  },
  async llama(row) {
    if (row.gguf === undefined) return "–";
    if (llama === undefined) return "not installed";
    const [theirs, ours] = [await likelihood(row.gguf), await meanNll(row.model, 1)];
    return `${(100 * (theirs / ours - 1)).toExponential(1)} %`;
  },
};

/** What a refusal says, as far as a table has room. */
function refusal(error) {
  const first = String(error?.message ?? error)
    .split(/; |\n/)[0]
    .replaceAll("|", "/")
    .replaceAll(scratch, "…");
  return `refused: ${first.length > 90 ? `${first.slice(0, 90)}…` : first}`;
}

let agreeing = 0;
let tried = 0;
console.log(`| model | ${columns.join(" | ")} |\n|---|${columns.map(() => "---|").join("")}`);
for (const [name, reference] of Object.entries(expected)) {
  if (chosen.length > 0 && !chosen.includes(name)) continue;
  tried++;
  const row = { model: join(folder, name), reference };
  const cells = [];
  for (const column of columns) cells.push(await WORK[column](row).catch(refusal));
  if (Math.abs(row.difference) < 1e-5) agreeing++;
  console.log(`| ${name} | ${cells.join(" | ")} |`);
}
rmSync(scratch, { recursive: true, force: true });
if (columns.includes("eval")) console.log(`\n${agreeing} of ${tried} within 1e-5 nats`);
