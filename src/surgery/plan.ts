import { availableParallelism } from "node:os";
import { join } from "node:path";
import { defaultMemoryBytes } from "../calibration/memory.js";
import { type Donor, elementCount } from "../checkpoint/donor.js";
import type { MatrixKind } from "../checkpoint/matrix-kind.js";
import { classifyTensor, type TargetShape } from "../checkpoint/projections.js";
import { refuseQuantised } from "../checkpoint/quantised.js";
import { PhysariumError } from "../errors.js";
import { isDataFree } from "../flow/flows.js";
import { type KernelSizes, kernelByteLength } from "../flow/kernels.js";
import type { DataFreeFlow } from "../flow/reference.js";
import { isTurned } from "../flow/resident-band.js";
import { type DecoderCoverage, decoderCoverage } from "../record/decoder-coverage.js";
import { countTiles, partitionOf } from "../record/pieces.js";
import { bytesPerFloat } from "../safetensors/dtypes.js";
import { type CheckedOptions, compilePattern, defaultWorkers } from "./options.js";
import { asDecoderTensor, noTarget, planWarnings } from "./plan-words.js";

/** A tensor as the plan has it: where it stands, what becomes of it and why. */
export interface PlannedTensor {
  readonly name: string;
  readonly shard: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  /** From the first byte of the shard; the same in donor and output. */
  readonly byteOffset: number;
  readonly byteLength: number;
  readonly role: "target" | "carried";
  readonly reason: string;
  readonly layer: number;
  readonly projection: string;
  /** What a matrix of a decoder layer is for. */
  readonly kind: MatrixKind | undefined;
  /** Counts among the matrices of the decoder's layers. */
  readonly inDecoder: boolean;
  readonly target: TargetShape | undefined;
  readonly tiles: number;
}

export interface PlannedShard {
  readonly file: string;
  readonly path: string;
  readonly byteLength: number;
  readonly modifiedNs: string;
  readonly dataByteOffset: number;
  /** In the order of their data. */
  readonly tensors: readonly PlannedTensor[];
}

export interface PlannedMemory {
  /** Worker threads; of v2 the threads of its products. */
  readonly workers: number;
  /** Each worker reads, computes and writes this many pieces at once. */
  readonly slots: number;
  readonly slotByteLength: number;
  readonly kernelByteLength: number;
  /** What the whole process is expected to reach. */
  readonly peakByteLength: number;
}

/** Everything decided before the first byte is written; plain frozen data. */
export interface Plan {
  /** The donor as it was opened: whoever works by this plan need not open it again. */
  readonly model: Donor;
  readonly donor: {
    readonly path: string;
    readonly totalSize: number;
    readonly tensorCount: number;
    readonly modelWeights: number;
    readonly isSharded: boolean;
  };
  readonly options: CheckedOptions;
  /** In the order of the run. */
  readonly shards: readonly PlannedShard[];
  readonly sideFiles: readonly { readonly file: string; readonly byteLength: number; readonly modifiedNs: string }[];
  readonly leftOut: readonly { readonly file: string; readonly reason: string }[];
  readonly targetTensors: number;
  readonly targetWeights: number;
  readonly tiles: number;
  /** The decoder's matrices, and which of them stay as they are. */
  readonly decoder: DecoderCoverage;
  readonly memory: PlannedMemory;
  readonly bytesToRead: number;
  readonly bytesToWrite: number;
  readonly warnings: readonly { readonly code: string; readonly message: string }[];
}

/** What a flow that works tile by tile needs of a plan, of a whole one or of a part's. */
export type TilePlan = Pick<Plan, "options" | "shards" | "memory" | "targetWeights"> & {
  readonly donor: Pick<Plan["donor"], "path">;
};

/** The whole process stays under this at any model size (DESIGN.md §6). */
export const MEMORY_LIMIT = 512 << 20;
/** Node itself with our code loaded, and each worker thread, as measured (docs/performance.md). */
const BASE_BYTES = 110 << 20;
const WORKER_BYTES = 14 << 20;
/** What we keep of a tensor: its header entry, plan entry, ledger row. */
const BYTES_PER_TENSOR = 1_200;
/** Pieces of a worker under way: one is computed while others are read and written, so that the disk never waits. */
const SLOTS = 6;
const MIN_SLOT_BYTES = 8 << 20;

/** What a flow without kernels copies through: one buffer is read while one is digested and one is written. */
export const COPY_BUFFERS = 3;
export const COPY_BUFFER_BYTES = MIN_SLOT_BYTES;
/** Bands over this are streamed through again for every pass instead of being held. */
const MAX_SLOT_BYTES = 24 << 20;
/** A single row must fit a slot. */
const MAX_ROW_BYTES = 64 << 20;

/**
 * Decide everything about an operation: which tensors are targets, how they are cut, what it takes.
 *
 * Reads no weights and writes nothing. Throws `DONOR_QUANTISED`, and `DONOR_NO_TARGET` unless `allowNoTarget`.
 */
export function planSurgery(donor: Donor, options: CheckedOptions, allowNoTarget = false): Plan {
  const choice = {
    include: compilePattern("include", options.include),
    exclude: compilePattern("exclude", options.exclude),
    needsInputs: !isDataFree(options.flow),
  };
  const { blockSize } = options.params;
  refuseQuantised(everyTensor(donor));

  let targetTensors = 0;
  let targetWeights = 0;
  let tiles = 0;
  let maxCols = 1;
  let maxRowBytes = 0;
  let maxPieceBytes = MIN_SLOT_BYTES;
  let targetBytes = 0;
  const shards = donor.shards.map((shard): PlannedShard => {
    const tensors = shard.tensors.map((info): PlannedTensor => {
      const { role, reason, layer, projection, kind, inDecoder, target } = classifyTensor(
        info,
        choice,
        donor.structure,
      );
      let tensorTiles = 0;
      if (target !== undefined) {
        tensorTiles = countTiles(target, blockSize);
        targetTensors++;
        targetWeights += elementCount(info.shape);
        targetBytes += info.byteLength;
        tiles += tensorTiles;
        maxCols = Math.max(maxCols, kernelCols(target, blockSize));
        const rowBytes = target.cols * bytesPerFloat(target.dtype);
        if (rowBytes > MAX_ROW_BYTES) {
          throw new PhysariumError(
            "DONOR_ROW_TOO_LONG",
            `${shard.file}: tensor "${info.name}" has rows of ${rowBytes} bytes, at most ${MAX_ROW_BYTES} fit in ` +
              "memory; leave it out with --exclude",
            { tensor: info.name },
          );
        }
        maxRowBytes = Math.max(maxRowBytes, rowBytes);
        const bandBytes = Math.min(blockSize, target.rows) * rowBytes;
        if (isTurned(kernelFlow(options), target.storedByInput ?? false) && bandBytes > MAX_SLOT_BYTES) {
          throw new PhysariumError(
            "USAGE_BLOCK_SIZE",
            `${shard.file}: tensor "${info.name}" is stored with inputs as rows; the balanced flow turns it a band ` +
              `of ${blockSize} rows at a time, which takes ${bandBytes} bytes, at most ${MAX_SLOT_BYTES}; give a ` +
              "smaller --block-size",
            { tensor: info.name },
          );
        }
        maxPieceBytes = Math.max(maxPieceBytes, partitionOf(info.byteLength, target, blockSize).pieceByteLength);
      }
      const { name, dtype, shape, byteOffset, byteLength } = info;
      return {
        name,
        shard: shard.file,
        dtype,
        shape,
        byteOffset,
        byteLength,
        role,
        reason,
        layer,
        projection,
        kind,
        inDecoder,
        target,
        tiles: tensorTiles,
      };
    });
    const { file, byteLength, modifiedNs, dataByteOffset } = shard;
    return { file, path: join(donor.path, file), byteLength, modifiedNs: String(modifiedNs), dataByteOffset, tensors };
  });
  if (targetTensors === 0 && !allowNoTarget) throw noTarget(donor, options);

  const decoder = decoderCoverage(shards.flatMap(({ tensors }) => tensors.map(asDecoderTensor)));
  const sizes: KernelSizes = {
    slotCount: SLOTS,
    slotByteLength: Math.max(Math.min(maxPieceBytes, MAX_SLOT_BYTES), maxRowBytes),
    maxCols,
  };
  const sideBytes = donor.sideFiles.reduce((sum, file) => sum + file.byteLength, 0);
  const shardBytes = shards.reduce((sum, shard) => sum + shard.byteLength, 0);
  const searchBytes = searchesSurvival(options) ? targetBytes : 0;
  return Object.freeze({
    model: donor,
    donor: {
      path: donor.path,
      totalSize: donor.totalSize,
      tensorCount: donor.tensorCount,
      modelWeights: donor.modelWeights,
      isSharded: donor.index !== undefined,
    },
    options,
    shards,
    sideFiles: donor.sideFiles.map(({ file, byteLength, modifiedNs }) => ({
      file,
      byteLength,
      modifiedNs: String(modifiedNs),
    })),
    leftOut: donor.leftOut,
    targetTensors,
    targetWeights,
    tiles,
    decoder,
    memory: planMemory(sizes, options, donor.tensorCount),
    bytesToRead: shardBytes + sideBytes + searchBytes,
    bytesToWrite: shardBytes + sideBytes,
    warnings: planWarnings(donor, decoder, shards),
  });
}

function* everyTensor(donor: Donor) {
  for (const shard of donor.shards) for (const info of shard.tensors) yield { info, shard: shard.file };
}

/** Is the survival to be found by a search? v2 selects its rate directly. */
export function searchesSurvival({ targetSparsity, flow }: CheckedOptions): boolean {
  return targetSparsity !== undefined && isDataFree(flow);
}

/** The flow of the kernels; v2 has none, and none of what is drawn with them. */
export function kernelFlow({ flow }: CheckedOptions): DataFreeFlow {
  return isDataFree(flow) ? flow : "magnitude";
}

/** Columns of a band as the kernel sees it: one stored (inputs, outputs) may be turned, tile by tile. */
function kernelCols({ rows, cols, storedByInput }: TargetShape, blockSize: number): number {
  return storedByInput ? Math.max(cols, Math.min(rows, blockSize)) : cols;
}

/** The kernel's sizes that a plan implies. */
export function kernelSizes(plan: Pick<Plan, "options" | "shards" | "memory">): KernelSizes {
  const { blockSize } = plan.options.params;
  const maxCols = plan.shards.reduce(
    (most, shard) =>
      shard.tensors.reduce(
        (cols, { target }) => (target === undefined ? cols : Math.max(cols, kernelCols(target, blockSize))),
        most,
      ),
    1,
  );
  return { slotCount: plan.memory.slots, slotByteLength: plan.memory.slotByteLength, maxCols };
}

/** Workers and memory for kernels of these sizes on this machine. */
export function planMemory(sizes: KernelSizes, options: CheckedOptions, tensorCount: number): PlannedMemory {
  const bookkeeping = BASE_BYTES + tensorCount * BYTES_PER_TENSOR;
  const { activation } = options;
  if (activation !== undefined) {
    // No kernels: what is carried over is copied through a few buffers before anything of the budget is in use.
    const budget = activation.memoryBytes ?? defaultMemoryBytes();
    const peakByteLength = bookkeeping + Math.max(budget, COPY_BUFFERS * COPY_BUFFER_BYTES);
    const workers = options.workers ?? availableParallelism();
    const buffers = { slots: COPY_BUFFERS, slotByteLength: COPY_BUFFER_BYTES };
    return { workers, ...buffers, kernelByteLength: 0, peakByteLength };
  }
  const task = searchesSurvival(options) ? "count" : "operate";
  const perKernel = kernelByteLength(sizes, options.params, kernelFlow(options), task);
  const perWorker = perKernel + WORKER_BYTES;
  const workers = options.workers ?? defaultWorkers(perWorker, MEMORY_LIMIT - bookkeeping);
  return {
    workers,
    slots: sizes.slotCount,
    slotByteLength: sizes.slotByteLength,
    kernelByteLength: perKernel,
    peakByteLength: bookkeeping + Math.max(1, workers) * perWorker,
  };
}
