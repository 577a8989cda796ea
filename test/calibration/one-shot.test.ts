import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { collectGrams } from "../../dist/calibration/grams/collect.js";
import { evaluate } from "../../dist/probe/evaluate.js";
import { LayerRunner } from "../../dist/probe/forward/layer-runner.js";
import { prepareText } from "../../dist/probe/text/protocols.js";
import { TextTokenizer } from "../../dist/probe/text/tokenizer.js";
import { hasEngine, sharedDonor } from "../probe/engine-present.js";
import { temporaryFolder } from "../probe/tiny-model.js";

const TEXT = "../shared/text/tinystories_dev.txt";
const stories = sharedDonor("stories260K");
/** Documents before these calibrate, the rest score. */
const CALIBRATION_DOCUMENTS = 64;

/** Zero 30 % by score: of each whole matrix, or of each row. `channelScale` weighs each weight by its input channel. */
function pruned(wholeMatrix: boolean, channelScale: (tensor: string) => Float32Array | undefined): string {
  const folder = temporaryFolder();
  cpSync(stories!, folder, { recursive: true });
  const path = join(folder, "model.safetensors");
  const file = readFileSync(path);
  const length = Number(file.readBigUInt64LE(0));
  const header: Record<string, { shape: number[]; data_offsets: [number, number] }> = JSON.parse(
    file.subarray(8, 8 + length).toString(),
  );
  for (const [name, tensor] of Object.entries(header)) {
    if (!name.endsWith("_proj.weight")) continue;
    const [rows, cols] = tensor.shape;
    const begin = 8 + length + tensor.data_offsets[0];
    const scale = channelScale(name);
    const score = (at: number): number => Math.abs(file.readFloatLE(begin + 4 * at)) * (scale?.[at % cols] ?? 1);
    const groups = wholeMatrix
      ? [[0, rows * cols]]
      : Array.from({ length: rows }, (_, row) => [row * cols, (row + 1) * cols]);
    for (const [from, to] of groups) {
      const order = Array.from({ length: to - from }, (_, at) => from + at)
        .map((at) => [score(at), at])
        .sort((a, b) => a[0] - b[0]);
      for (const [, at] of order.slice(0, Math.floor(0.3 * (to - from)))) file.writeFloatLE(0, begin + 4 * at);
    }
  }
  writeFileSync(path, file);
  return folder;
}

describe.skipIf(!hasEngine || stories === undefined)("one-shot pruning of stories260K at 30 %", () => {
  test("magnitude adds about 0.33 nats a token, Wanda's rule with our norms about 0.21", async () => {
    const tokenizer = await TextTokenizer.open(stories!);
    const options = { protocol: "documents", window: 256 } as const;
    const calibration = await prepareText(readFileSync(TEXT, "utf8"), tokenizer, 512, {
      ...options,
      limit: CALIBRATION_DOCUMENTS,
    });
    const runner = await LayerRunner.open(stories!);
    const norms = new Map<string, Float32Array>();
    const sequences = calibration.sequences.map(({ ids }) => ids);
    for await (const { layer, step, mean } of collectGrams(runner, sequences, { kind: "norms" })) {
      const { projections } = runner.sites(layer).find(({ name }) => name === step)!;
      for (const { tensor } of projections) norms.set(tensor, mean.map(Math.sqrt));
    }
    await runner.close();

    const scored = { ...options, skip: CALIBRATION_DOCUMENTS, limit: 100 };
    const nllOf = async (folder: string) => (await evaluate(folder, TEXT, scored)).quality.model.mean_nll;
    const dense = await nllOf(stories!);
    const magnitude = await nllOf(pruned(true, () => undefined));
    const wanda = await nllOf(pruned(false, (tensor) => norms.get(tensor)));
    console.log(
      `dense ${dense.toFixed(4)}, magnitude +${(magnitude - dense).toFixed(4)}, Wanda +${(wanda - dense).toFixed(4)}`,
    );
    // Figures of other code on other stories: order and size must agree.
    expect(magnitude - dense).toBeGreaterThan(0.26);
    expect(magnitude - dense).toBeLessThan(0.4);
    expect(wanda - dense).toBeGreaterThan(0.16);
    expect(wanda - dense).toBeLessThan(0.26);
  });
});
