import type { FormLayout } from "./forms.js";

/** How a body will be run: what the memory beside the weights depends on. */
export interface RunShape {
  /** Tokens of one conversation. */
  readonly context: number;
  readonly sequences: number;
}

/** Bytes a body takes in each place, and of what. An estimate, until admission has measured it. */
export interface Footprint {
  readonly gpuLayers: number;
  readonly vram: MemoryParts;
  readonly ram: MemoryParts;
}

export interface MemoryParts {
  readonly weights: number;
  readonly kv: number;
  readonly buffers: number;
  readonly total: number;
}

/** llama.cpp rounds a context up to this many cells. */
const CONTEXT_STEP = 256;
/** Keys and values are F16. */
const KV_BYTES = 2;
/** Tokens in one pass of the engine. */
export const BATCH_TOKENS = 512;
/** What a child process with Node and the engine's libraries is counted with; admission measures it. */
const PROCESS_BYTES = 110 << 20;
/** What a GPU's driver takes for a context of its own. */
const GPU_CONTEXT_BYTES = 300 << 20;

/** Cells of the cache: every conversation's tokens, rounded up as the engine does. */
export function cellsOf({ context, sequences }: RunShape): number {
  return Math.ceil((context * sequences) / CONTEXT_STEP) * CONTEXT_STEP;
}

/** Bytes of keys and values of one layer. */
export function kvBytesOfLayer({ shape }: FormLayout, run: RunShape): number {
  return cellsOf(run) * shape.kvHeads * shape.headLength * 2 * KV_BYTES;
}

/**
 * The engine's scratch: activations of a batch, of which the logits (vocabulary wide) or the widest inner product are
 * the largest. For Qwen2.5-7B's shape llama.cpp itself says 304 MiB, this too.
 */
export function bufferBytes({ shape }: FormLayout, run: RunShape): number {
  const batch = Math.min(BATCH_TOKENS, run.context);
  const widest = Math.max(shape.vocabSize, 2 * shape.intermediateSize, 3 * shape.heads * shape.headLength);
  return batch * (widest + shape.hiddenSize) * 4;
}

/**
 * What a form takes with `gpuLayers` of its layers on the GPU: 0 for none, layers + 1 for all and the output head. As
 * llama.cpp does it the last layers go first, each with its keys and values; the embedding stays in RAM.
 */
export function footprintOf(layout: FormLayout, run: RunShape, gpuLayers: number): Footprint {
  const { layers } = layout.shape;
  const onGpu = Math.min(gpuLayers, layers);
  const hasHead = gpuLayers > layers;
  const sum = (values: readonly number[]): number => values.reduce((total, each) => total + each, 0);
  const kv = kvBytesOfLayer(layout, run);
  const buffers = bufferBytes(layout, run);
  // In RAM a tied head is the embedding itself.
  const tied = layout.fileBytes < sum(layout.layerBytes) + layout.embeddingBytes + layout.outputBytes;
  const headInRam = hasHead ? 0 : tied ? layout.outputBytes - layout.embeddingBytes : layout.outputBytes;
  return {
    gpuLayers,
    vram: partsOf({
      weights: sum(layout.layerBytes.slice(layers - onGpu)) + (hasHead ? layout.outputBytes : 0),
      kv: kv * onGpu,
      buffers: gpuLayers === 0 ? 0 : buffers + GPU_CONTEXT_BYTES,
    }),
    ram: partsOf({
      weights: sum(layout.layerBytes.slice(0, layers - onGpu)) + layout.embeddingBytes + headInRam,
      kv: kv * (layers - onGpu),
      buffers: PROCESS_BYTES + buffers,
    }),
  };
}

function partsOf(parts: Omit<MemoryParts, "total">): MemoryParts {
  return { ...parts, total: parts.weights + parts.kv + parts.buffers };
}
