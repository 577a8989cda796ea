import { stat } from "node:fs/promises";
import { join } from "node:path";
import * as v from "valibot";
import { nodeFiles, readSmallFile } from "../checkpoint/file-layer.js";
import { PhysariumError } from "../errors.js";
import { Count, Finite, Fraction, NotNegative, readJson, Words } from "./read-json.js";

const Positive = v.pipe(Finite, v.gtValue(0));

/** The rows of a comparison beside one operation, as `surgery.json` keeps them. */
export const ComparisonNumbersSchema = v.looseObject({
  donor: Words,
  text: Words,
  protocol: v.looseObject({ name: Words, window: Count, windows: Count, tokens: Count }),
  dense: v.looseObject({ perplexity: Positive }),
  rows: v.array(
    v.looseObject({
      method: Words,
      title: v.optional(Words),
      // biome-ignore lint/suspicious/noThenProperty: compare.json calls it so, and a schema is awaited by nobody
      then: v.optional(v.picklist(["matched", "distilled"])),
      trained: v.optional(v.literal(true)),
      distil_steps: v.optional(Count),
      sparsity: v.optional(Fraction),
      pattern: v.optional(Words),
      sparsity_reached: Fraction,
      perplexity: Positive,
      damage: Finite,
      kl_mean: NotNegative,
    }),
  ),
});

/** The part of `ComparisonRecord` that a report shows beside its own operation; see there for units. */
export type ComparisonNumbers = v.InferOutput<typeof ComparisonNumbersSchema>;

/** As much as a table of every method at a thousand sparsities. */
const MAX_BYTES = 2 ** 26;

/**
 * What `physarium compare --out` kept: its folder, or the compare.json in it. Throws `USAGE_COMPARISON` where there is
 * none, or it is no record of a comparison.
 */
export async function readComparison(path: string): Promise<ComparisonNumbers> {
  const refuse = (file: string, why: string, cause?: unknown): PhysariumError =>
    new PhysariumError(
      "USAGE_COMPARISON",
      `${file}: ${why}; give the folder that physarium compare --out wrote`,
      { path: file },
      cause,
    );
  const found = await stat(path).catch(() => undefined);
  const file = found?.isDirectory() ? join(path, "compare.json") : path;
  const bytes = await readSmallFile(file, nodeFiles, MAX_BYTES).catch((error) => {
    throw refuse(file, "there is no such file, or none that could be a comparison", error);
  });
  return readJson(bytes, ComparisonNumbersSchema, (fault, cause) =>
    refuse(file, `this is no record of a comparison: ${fault}`, cause),
  );
}
