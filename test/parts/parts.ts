import { readFileSync } from "node:fs";
import { join } from "node:path";
import { openDonor } from "../../dist/checkpoint/donor.js";
import { finishParts } from "../../dist/parts/finish.js";
import { runPart } from "../../dist/parts/part-run.js";
import { type PrepareOptions, prepareParts } from "../../dist/parts/prepare.js";
import { checkOptions, type SurgeryOptions } from "../../dist/surgery/options.js";
import { planSurgery } from "../../dist/surgery/plan.js";
import { gaussianTensor, type TensorFixture, writeDonor } from "../donors.js";

/** Small shards, one that is many times their size, experts, a stack, tensors that are carried over, an empty one. */
export function writeMixedDonor(folder: string): string {
  const layer = (at: number): TensorFixture[] => [
    gaussianTensor(`model.layers.${at}.input_layernorm.weight`, "BF16", [96], 10 * at),
    gaussianTensor(`model.layers.${at}.self_attn.q_proj.weight`, "BF16", [130, 96], 10 * at + 1),
    gaussianTensor(`model.layers.${at}.mlp.down_proj.weight`, "F32", [96, 200], 10 * at + 2),
    gaussianTensor(`model.layers.${at}.mlp.up_proj.weight`, "F16", [200, 96], 10 * at + 3),
    { name: `empty.${at}`, dtype: "F32", shape: [0, 4], bytes: new Uint8Array(0) },
  ];
  const experts = [0, 1, 2, 3].flatMap((expert) =>
    ["gate_proj", "up_proj", "down_proj"].map((kind, at) =>
      gaussianTensor(`model.layers.4.mlp.experts.${expert}.${kind}.weight`, "BF16", [64, 96], 100 + 3 * expert + at),
    ),
  );
  const huge = [
    gaussianTensor("model.embed_tokens.weight", "BF16", [300, 96], 7),
    ...[5, 6, 7].flatMap(layer),
    ...experts,
    gaussianTensor("model.layers.8.mlp.experts.gate_up_proj", "BF16", [3, 96, 128], 200),
    gaussianTensor("lm_head.weight", "BF16", [300, 96], 8),
  ];
  return writeDonor(folder, [layer(0), layer(1), huge, layer(2), layer(3)], {
    "config.json": "{}",
    "tokenizer.json": `{"side": "file"}`,
  });
}

export async function prepare(
  donor: string,
  outputPath: string,
  maxParts: number,
  options: SurgeryOptions = {},
  more: Partial<PrepareOptions> = {},
) {
  const plan = planSurgery(await openDonor(donor), checkOptions({ workers: 0, ...options }));
  return prepareParts(plan, { outputPath, maxParts, ...more });
}

/** Prepare, run every part in an order of its own, finish. */
export async function inParts(donor: string, outputPath: string, maxParts: number, options: SurgeryOptions = {}) {
  const { plan } = await prepare(donor, outputPath, maxParts, options);
  for (const { part } of [...plan.parts].reverse()) await runPart(outputPath, part, { workers: 0 });
  await finishParts(outputPath, { workers: 0 });
  return plan;
}

/** The records of an output's ledger, without what differs from run to run, in their order. */
export function recordsOf(output: string): string[] {
  return readFileSync(join(output, "physarium/ledger.jsonl"), "utf8")
    .trimEnd()
    .split("\n")
    .map((line) =>
      JSON.stringify(JSON.parse(line), (key, value) => (key === "at" || key === "seconds" ? null : value)),
    );
}
