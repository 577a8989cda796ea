import type { StageRecord } from "../methods/method.js";
import type { ProductWork } from "../methods/rows/row-block.js";
import type { Step } from "../model/steps.js";
import { compareRows, type Evidence, evidenceOf, probeSigns } from "../record/evidence.js";
import type { FloatDtype } from "../safetensors/dtypes.js";

/** Weights of an operated matrix, counted. */
export interface WeightCounts {
  /** ±0 now, and in the donor. */
  readonly zeros: number;
  readonly zerosBefore: number;
  /** Survivors whose bits differ from the donor's. */
  readonly survivorsChanged: number;
  /** Those of them that were ±0. */
  readonly revived: number;
  /** What ties them to the donor's, for verify. */
  readonly evidence: Evidence;
}

/** One operated matrix, as it will stand in the checkpoint. */
export interface OperatedTensor extends WeightCounts {
  readonly name: string;
  readonly layer: number;
  readonly projection: string;
  readonly step: Step;
  readonly dtype: FloatDtype;
  readonly rows: number;
  readonly cols: number;
  /** The file holds it as (cols, rows), and so do `bytes`. */
  readonly transposed: boolean;
  /** Little-endian, in the donor's dtype. */
  readonly bytes: Uint8Array;
  readonly stages: readonly StageRecord[];
  readonly exchangedShare?: number;
  /** How the Gram of its inputs was used. */
  readonly gram: "whole" | "tiles";
  readonly products?: ProductWork;
  readonly seconds: number;
}

/**
 * What became of a tensor's weights: everything that its record counts against the donor, so that nobody reads the
 * donor again for it.
 */
export function compareWeights(
  name: string,
  storedCols: number,
  before: Float32Array,
  after: Float32Array,
): WeightCounts {
  const counts = { zeros: 0, zerosBefore: 0, survivorsChanged: 0, revived: 0 };
  for (let at = 0; at < after.length; at++) {
    if (before[at] === 0) counts.zerosBefore++;
    if (after[at] === 0) counts.zeros++;
    else if (after[at] !== before[at]) {
      counts.survivorsChanged++;
      if (before[at] === 0) counts.revived++;
    }
  }
  return { ...counts, evidence: evidenceOf([compareRows(before, after, probeSigns(name, storedCols))]) };
}
