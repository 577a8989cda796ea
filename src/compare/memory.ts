import { BYTES_PER_WEIGHT } from "../calibration/distil.js";
import {
  activationBytes,
  blockThreads,
  COPIES_SHARE,
  checkMemory,
  defaultMemoryBytes,
  gramModeFor,
} from "../calibration/memory.js";
import { PhysariumError } from "../errors.js";
import type { MatchOptions } from "../matching/match-layer.js";
import type { LayerRunner } from "../probe/forward/layer-runner.js";

/** What a comparison holds from its first row to its last, and what is left for the work; all in bytes. */
export interface ComparisonMemory {
  readonly total: number;
  /** f32 copies of what was operated on, for a whole model is scored at once, and what distilling adds to them. */
  readonly operated: number;
  /** The residual streams of the scored text, the donor's and the operated model's. */
  readonly scored: number;
  /** Activations that calibrate, at their widest. */
  readonly calibrating: number;
  /** For calibration, Grams, rows in work and f32 copies of the donor's weights. */
  readonly work: number;
}

export interface ComparisonSize {
  readonly calibrationTokens: number;
  readonly scoredTokens: number;
  /** Some method looks at Grams. */
  readonly hasGrams: boolean;
  readonly match?: MatchOptions | undefined;
  /** Rows are distilled, too. */
  readonly distils: boolean;
}

/** Share out the budget. Throws `USAGE_MEMORY`, naming what does not fit and what to do. */
export function shareMemory(
  runner: LayerRunner,
  { calibrationTokens, scoredTokens, hasGrams, match, distils }: ComparisonSize,
  total: number = defaultMemoryBytes(),
): ComparisonMemory {
  let weights = 0;
  let widest = 0;
  for (let layer = 0; layer < runner.layerCount; layer++) {
    for (const { rows, cols } of runner.projections(layer)) weights += rows * cols;
    for (const { width } of runner.sites(layer)) widest = Math.max(widest, width);
  }
  const operated = (distils ? BYTES_PER_WEIGHT : 4) * weights;
  const scored = 2 * 4 * scoredTokens * runner.architecture.hiddenSize;
  const work = total - operated - scored;
  if (work <= 0) {
    throw new PhysariumError(
      "USAGE_MEMORY",
      `a comparison holds the operated weights (${gibibytes(operated)} GiB) and the residual streams of the ` +
        `scored text (${gibibytes(scored)} GiB), and --memory is ${gibibytes(total)} GiB; score less with --limit, ` +
        "or give more --memory",
      { operated, scored, memoryBytes: total },
    );
  }
  if (hasGrams && gramModeFor(widest, "auto", work) !== "full") {
    throw new PhysariumError(
      "USAGE_MEMORY",
      `whole Grams of ${widest} inputs do not fit the ${gibibytes(work)} GiB that --memory leaves for the work of a ` +
        "comparison; compare methods without Grams (--methods), or give more --memory",
      { widest, memoryBytes: total },
    );
  }
  checkMemory(runner, calibrationTokens, work, match);
  return { total, operated, scored, calibrating: activationBytes(runner, calibrationTokens), work };
}

/** The runner that keeps as many f32 copies of the donor's weights as their share of the work's memory allows. */
export function runnerWithin(opened: LayerRunner, { work }: ComparisonMemory): LayerRunner {
  return opened.withMemory(work * COPIES_SHARE);
}

/** Threads that work on blocks of rows side by side. */
export function threadsWithin(runner: LayerRunner, { work }: ComparisonMemory, threads: number): number {
  return blockThreads(runner, "full", work, threads);
}

/** Where the memory goes, for people. */
export function memoryWords({ total, operated, scored, calibrating, work }: ComparisonMemory): string {
  return (
    `memory: of ${gibibytes(total)} GiB the operated weights take ${gibibytes(operated)}, the scored text ` +
    `${gibibytes(scored)}, calibration up to ${gibibytes(calibrating)}; ${gibibytes(work - calibrating)} are for ` +
    "Grams, rows in work and copies of weights"
  );
}

function gibibytes(bytes: number): string {
  return (bytes / 2 ** 30).toFixed(2);
}
