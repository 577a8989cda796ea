// How far does a quantised model stand from the one it was made of? KL of the next token's distribution, in nats.
//
//   node bench/quantisation.mjs <model> --grams grams.safetensors --text FILE [--types q4_0,q4_k,q5_k]
//        [--window 256] [--limit 8] [--bos each] [--against DONOR]
//
// plain    as llama.cpp without an importance matrix
// imatrix  llama.cpp's weighted quantisation with E[x²] of every matrix of a layer (not of the output matrix, as there)
// ours     errors passed on through the inverse Gram, the output matrix included; zeros of a pruned matrix stay zero
//
// All three have the same types for the same tensors, so the same bits. `grams` comes from `physarium calibrate`. What is
// scored is the exported file, imported back as F32: the weights that llama.cpp decodes, run by our own forward pass.
import { mkdtempSync, rmSync } from "node:fs";
import { loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { openStatistics } from "../dist/cli/export-statistics.js";
import { exportGguf } from "../dist/export/gguf/export.js";
import { importGguf } from "../dist/export/gguf/import.js";
import { runModels } from "../dist/probe/evaluate.js";
import { inspectModel } from "../dist/probe/forward/inspect-model.js";
import { prepareText } from "../dist/probe/text/protocols.js";
import { openTextFile } from "../dist/probe/text/text-file.js";
import { TextTokenizer } from "../dist/probe/text/tokenizer.js";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    grams: { type: "string" },
    text: { type: "string" },
    against: { type: "string" },
    types: { type: "string", default: "q4_0,q4_k,q5_k" },
    methods: { type: "string", default: "plain,imatrix,ours" },
    window: { type: "string", default: "256" },
    limit: { type: "string", default: "8" },
    bos: { type: "string" },
  },
});
const model = positionals[0];
const scratch = mkdtempSync(join(tmpdir(), "physarium-quantisation-"));
const calibration = { calibration: values.grams, samples: 1, signal: new AbortController().signal };
const opened = await openStatistics(model, calibration);
const { statistics } = opened;
const inLayers = (link) => link.ggufName.startsWith("blk.");
const METHODS = {
  plain: undefined,
  imatrix: { importance: async (link) => (inLayers(link) ? statistics.importance(link) : undefined) },
  ours: statistics,
};
const { architecture } = await inspectModel(model);
const file = await openTextFile(values.text);
const bos = values.bos === undefined ? {} : { bos: values.bos };
const protocol = { window: Number(values.window), limit: Number(values.limit), ...bos };
const prepared = await TextTokenizer.with(model, {}, (tokenizer) =>
  prepareText(file.read(), tokenizer, architecture.maxPositions, protocol),
);
const mean = (list) => list.reduce((sum, value) => sum + value, 0) / list.length;

console.log(
  `${prepared.record.tokens} tokens in windows of ${values.window}; load ${loadavg()[0].toFixed(1)} at the start\n`,
);
console.log("| type | method | bytes | zeros before | zeros after | KL | of plain's | perplexity | export, s |");
console.log("|---|---|---|---|---|---|---|---|---|");
try {
  for (const type of values.types.split(",")) {
    let plain;
    for (const method of values.methods.split(",")) {
      const path = join(scratch, "x.gguf");
      const started = performance.now();
      const made = await exportGguf(model, path, {
        type: type.toUpperCase(),
        overwrite: true,
        ...(METHODS[method] === undefined ? {} : { statistics: METHODS[method] }),
      });
      const seconds = (performance.now() - started) / 1000;
      const folder = join(scratch, "folder");
      await importGguf(path, folder, { dtype: "F32" });
      const { traces, kl } = await runModels([values.against ?? model, folder], prepared, {});
      rmSync(folder, { recursive: true });
      const found = mean(kl);
      plain ??= found;
      const matrices = made.tensors.filter(({ isMatrix }) => isMatrix);
      const share = (key) =>
        matrices.reduce((sum, tensor) => sum + tensor[key], 0) /
        matrices.reduce((sum, tensor) => sum + tensor.weights, 0);
      console.log(
        `| ${type} | ${method} | ${made.byteLength} | ${(100 * share("zerosBefore")).toFixed(2)} % | ${(100 * share("zerosAfter")).toFixed(2)} % | ${found.toFixed(5)} | ${(found / plain).toFixed(3)} | ${Math.exp(mean(traces[1].nll)).toFixed(3)} | ${seconds.toFixed(0)} |`,
      );
    }
  }
} finally {
  await opened.close();
  rmSync(scratch, { recursive: true });
}
