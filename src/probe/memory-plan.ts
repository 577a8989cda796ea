import { PhysariumError } from "../errors.js";
import type { Architecture } from "../model/architecture.js";
import { VOCABULARY_CHUNK } from "./forward/head-graph.js";
import type { Weights } from "./forward/weights.js";

/** How a text is run: what decides the memory it takes. */
export interface RunSizes {
  /** Tokens of one run of the engine. */
  readonly batchTokens: number;
  /** Places whose logits are made at once. */
  readonly placesAtOnce: number;
}

export const DEFAULT_SIZES: RunSizes = { batchTokens: 2048, placesAtOnce: 1024 };
const LEAST_PLACES = 64;

/**
 * Node with our code loaded and the engine in it: 109 MiB were seen of memory that no file backs
 * (`eval` of Gemma 3 270M in a container of 400 MiB).
 */
const BASE_BYTES = 150 << 20;
/** Of a chunk's logits lie side by side: logits, differences to the maximum, exponentials, what the operators copy. */
const LOGIT_COPIES = 5;

interface Run {
  readonly architecture: Architecture;
  readonly weights: Weights;
}

/**
 * The sizes of the runs that fit into `limitBytes`: the usual ones, or smaller ones. Mapped files are not counted, the
 * system lets go of their pages; where nothing is mapped the weights of a session are.
 *
 * Throws `USAGE_MEMORY` where not even the smallest fit.
 */
export function sizesThatFit(
  models: readonly Run[],
  window: number,
  limitBytes: number,
  batchTokens?: number,
): RunSizes {
  const least: RunSizes = { batchTokens: Math.max(window, batchTokens ?? 0), placesAtOnce: LEAST_PLACES };
  let sizes: RunSizes = { ...DEFAULT_SIZES, batchTokens: batchTokens ?? DEFAULT_SIZES.batchTokens };
  while (neededBytes(models, window, sizes) > limitBytes) {
    const next = {
      batchTokens: Math.max(least.batchTokens, Math.ceil(sizes.batchTokens / 2)),
      placesAtOnce: Math.max(least.placesAtOnce, sizes.placesAtOnce / 2),
    };
    if (next.batchTokens >= sizes.batchTokens && next.placesAtOnce >= sizes.placesAtOnce) {
      const needed = neededBytes(models, window, sizes);
      throw new PhysariumError(
        "USAGE_MEMORY",
        `a window of ${window} tokens takes about ${mebibytes(needed)} MiB beside the mapped weights, and ` +
          `${mebibytes(limitBytes)} MiB are what this machine or container gives; give it more, or a smaller --window`,
        { needed, limit: limitBytes },
      );
    }
    sizes = next;
  }
  return sizes;
}

/** About what runs of these sizes take at their widest, in bytes; f32 copies of weights, if any, are `--memory`'s. */
function neededBytes(models: readonly Run[], window: number, { batchTokens, placesAtOnce }: RunSizes): number {
  const tokens = Math.max(batchTokens, window);
  const residuals = models.reduce((sum, { architecture }) => sum + 2 * 4 * tokens * architecture.hiddenSize, 0);
  const layer = Math.max(...models.map((run) => layerBytes(run) + 4 * tokens * tokenFloats(run.architecture, window)));
  const logits = models.length * LOGIT_COPIES * 4 * placesAtOnce;
  const head = models.reduce((sum, { architecture, weights }) => {
    const rows = Math.min(VOCABULARY_CHUNK, architecture.vocabSize);
    return sum + rows * (logits / models.length + (4 + heldBytes(weights)) * architecture.hiddenSize);
  }, 0);
  return BASE_BYTES + residuals + Math.max(layer, head);
}

/** Floats of a token inside a layer: stream and norms, the projections, a row of attention a head, the neurons. */
function tokenFloats(architecture: Architecture, window: number): number {
  const { hiddenSize, intermediateSize, headCount, kvHeadCount, headDim } = architecture;
  return 4 * hiddenSize + 3 * (headCount + 2 * kvHeadCount) * headDim + headCount * window + 3 * intermediateSize;
}

/** All weights of the widest layer are cast before its first product. */
function layerBytes({ architecture, weights }: Run): number {
  let most = 0;
  for (let layer = 0; layer < architecture.layerCount; layer++) {
    let bytes = 0;
    for (const { dtype, elements } of weights.layerTensors(layer)) {
      bytes += elements * ((dtype === "F32" ? 0 : 4) + heldBytes(weights));
    }
    most = Math.max(most, bytes);
  }
  return most;
}

/** Bytes a weight that is read into a session takes there at its widest, while the session is made. */
function heldBytes({ isMapped, byteLength, elementCount }: Weights): number {
  return isMapped ? 0 : (3 * byteLength) / elementCount;
}

function mebibytes(bytes: number): number {
  return Math.ceil(bytes / 2 ** 20);
}
