import { PhysariumError } from "../errors.js";
import type { MatchOptions } from "../matching/match-layer.js";
import type { LayerRunner } from "../probe/forward/layer-runner.js";
import { defaultMemoryBytes as halfOfMemory, memoryLimitBytes } from "../probe/memory.js";
import { bytesPerFloat } from "../safetensors/dtypes.js";

/**
 * Node, the engine and its sessions by themselves: Smol 135M, two samples of 64 tokens, took up to 243 MiB of a
 * container's 250, with a budget of 125, and was killed there.
 */
const BESIDE_BYTES = 256 << 20;
const MIB = 2 ** 20;

/** What may be taken when nobody says: half of what there is, and no more than the rest leaves; 0 where that is all. */
export function defaultMemoryBytes(): number {
  return Math.max(0, Math.min(halfOfMemory(), memoryLimitBytes() - BESIDE_BYTES));
}

/** How the Gram of a place is used: whole, in tiles of columns, or as memory allows. */
export type GramMode = "full" | "tile" | "auto";

/**
 * Matrices of (n, n) in f32 that a whole Gram costs at its peak: Gram and cross-Gram, coupling and pull, the pull
 * packed by the engine, and the coupling packed or as threads are handed it.
 */
const WHOLE_GRAM_COPIES = 6;

/**
 * Copies of a coupling that a thread which works on blocks holds while it binds it: as it came, and packed by its
 * engine.
 */
const THREAD_COPIES = 2;

/**
 * How the budget is shared out: f32 copies of weights, whole Grams, the rows in work; half of it is for activations.
 */
export const COPIES_SHARE = 1 / 8;
const GRAM_SHARE = 1 / 4;
export const ROWS_SHARE = 1 / 8;
const ACTIVATIONS_SHARE = 1 / 2;

/** `auto`: whole where it fits its share of the budget. */
export function gramModeFor(cols: number, mode: GramMode, memoryBytes: number): "full" | "tile" {
  if (mode !== "auto") return mode;
  return WHOLE_GRAM_COPIES * 4 * cols * cols <= memoryBytes * GRAM_SHARE ? "full" : "tile";
}

/**
 * Threads that can work on blocks of rows side by side, of `threads`: each has a copy of the coupling, and the widest
 * one that is used whole must fit what the
 * Grams leave of their share.
 */
export function blockThreads(runner: LayerRunner, mode: GramMode, memoryBytes: number, threads: number): number {
  const widths = new Set<number>();
  for (let layer = 0; layer < runner.layerCount; layer++)
    for (const { width } of runner.sites(layer)) widths.add(width);
  const whole = [...widths].filter((cols) => gramModeFor(cols, mode, memoryBytes) === "full");
  const matrixBytes = 4 * Math.max(1, ...whole) ** 2;
  const room = memoryBytes * GRAM_SHARE - WHOLE_GRAM_COPIES * matrixBytes;
  return Math.max(1, Math.min(threads, Math.floor(room / (THREAD_COPIES * matrixBytes))));
}

/**
 * Bytes of activations the calibration holds at its widest, before down: of both streams the layer's input, the
 * residual stream and the input, and the drift
 * between the residuals.
 */
export function activationBytes(runner: LayerRunner, tokens: number): number {
  const { hiddenSize, intermediateSize } = runner.architecture;
  return tokens * 4 * (5 * hiddenSize + 2 * Math.max(hiddenSize, intermediateSize));
}

/**
 * Bytes of weights that the layer in work holds at its widest: all that is new, as it is stored and as the forward
 * pass takes it, and of the largest matrix what the
 * donor has, what comes out and what tiles leave undone.
 */
export function layerBytes(runner: LayerRunner): number {
  let most = 0;
  for (let layer = 0; layer < runner.layerCount; layer++) {
    let bytes = 0;
    let largest = 0;
    for (const projection of runner.projections(layer)) {
      const weights = projection.rows * projection.cols;
      bytes += weights * (4 + bytesPerFloat(runner.stored(projection).dtype));
      largest = Math.max(largest, weights);
    }
    most = Math.max(most, bytes + 3 * 4 * largest);
  }
  return most;
}

/**
 * Bytes that matching a layer takes beside its weights: gradients, the weights as they came and the best ones so far,
 * and of the living places, means and mean squares (all may live); and of the activations of one lesson about twenty
 * times the residual stream, and four times the scores of attention.
 */
export function matchBytes(runner: LayerRunner, { lessonTokens }: MatchOptions): number {
  const { hiddenSize, intermediateSize, headCount, maxPositions } = runner.architecture;
  let most = 0;
  for (let layer = 0; layer < runner.layerCount; layer++) {
    const weights = runner.projections(layer).reduce((sum, { rows, cols }) => sum + rows * cols, 0);
    most = Math.max(most, weights);
  }
  const lesson = lessonTokens * 4 * (20 * hiddenSize + 8 * intermediateSize);
  return most * 4 * 6 + lesson + 4 * 4 * headCount * lessonTokens * Math.min(lessonTokens, maxPositions);
}

/** Throws `USAGE_MEMORY` where so many calibration tokens do not fit beside a layer. */
export function checkMemory(runner: LayerRunner, tokens: number, memoryBytes: number, match?: MatchOptions): void {
  if (memoryBytes <= 0) {
    throw new PhysariumError(
      "USAGE_MEMORY",
      `this machine or container gives ${Math.floor(memoryLimitBytes() / MIB)} MiB, of which Node and the engine ` +
        `take some ${BESIDE_BYTES / MIB} by themselves; nothing is left to calibrate in`,
      { limit: memoryLimitBytes() },
    );
  }
  const needed = activationBytes(runner, tokens);
  const share = memoryBytes * COPIES_SHARE;
  const allCopies = 4 * runner.weights.elementCount;
  // Weights have a share: f32 copies where all fit it, else none; the layer in work takes what is left, and then from
  // the activations.
  const matching = match === undefined ? 0 : matchBytes(runner, match);
  // Grams and rows in work are gone while a layer is matched: their share is there.
  const beside = Math.max(0, matching - memoryBytes * (GRAM_SHARE + ROWS_SHARE));
  const weights = layerBytes(runner) + beside + (allCopies <= share ? allCopies : 0);
  const room = memoryBytes * ACTIVATIONS_SHARE - Math.max(0, weights - share);
  if (room <= 0) {
    throw new PhysariumError(
      "USAGE_MEMORY",
      `the layer in work takes ${Math.ceil(weights / MIB)} MiB of weights, which leaves nothing of the ` +
        `${Math.floor(memoryBytes / MIB)} MiB of --memory for activations; give more --memory`,
      { weights, memoryBytes },
    );
  }
  if (needed <= room) return;
  const fit = Math.floor((tokens * room) / needed);
  throw new PhysariumError(
    "USAGE_MEMORY",
    `${tokens} calibration tokens take ${(needed / 2 ** 30).toFixed(1)} GiB of activations, and ` +
      `${(room / 2 ** 30).toFixed(1)} GiB of --memory are for them; take at most ${fit} tokens with --samples and ` +
      "--window, or give more --memory",
    { needed, memoryBytes, tokens },
  );
}
