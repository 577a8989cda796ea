import type { KernelSizes, KernelTask } from "../flow/kernels.js";
import type { FlowParams } from "../flow/params.js";
import type { DataFreeFlow } from "../flow/reference.js";
import type { FloatDtype } from "../safetensors/dtypes.js";

/** What crosses between the executor and its workers. */

export interface PieceJob {
  /** `operate`: a target's bands; `copy`: carried-over bytes; `check`: digest what an earlier run wrote. */
  readonly kind: "operate" | "copy" | "check";
  readonly shard: string;
  readonly tensor: string;
  readonly donorPath: string;
  readonly outputPath: string;
  /** From the first byte of the file at `donorPath`. */
  readonly byteOffset: number;
  /** From the first byte of the file at `outputPath`: the same, unless a part of a shard is a file of its own. */
  readonly outputByteOffset: number;
  readonly byteLength: number;
  /** Targets: the rows of the piece and where they stand. */
  readonly dtype: FloatDtype;
  readonly rows: number;
  readonly cols: number;
  readonly rowStart: number;
  readonly matrix: number;
  readonly matrixCount: number;
  /** The file's rows are the product's inputs; see `TargetShape`. */
  readonly storedByInput?: boolean;
  /** The donor's bytes where they are in memory already: `donorPath` is not opened then. */
  readonly held?: HeldBytes;
}

/** A stretch of a donor's file that came over the wire, shared between threads. */
export interface HeldBytes {
  readonly buffer: SharedArrayBuffer;
  /** Where it begins in the file. */
  readonly firstByte: number;
}

export interface PieceResult {
  /** XXH128 of the bytes as they stand in the output. */
  digest: string;
  /** Weights of the tiles that were operated on. */
  weights: number;
  /** ±0 now, and before. */
  dead: number;
  zeros: number;
  nonFinite: number;
  tiles: number;
  minTileSparsity: number;
  maxTileSparsity: number;
}

/** What a worker's kernels are made for. */
export interface OperatorSetup {
  readonly flow: DataFreeFlow;
  readonly params: FlowParams;
  readonly sizes: KernelSizes;
  readonly task: KernelTask;
  readonly allowNonFinite: boolean;
  /** Files to read or write past the page cache. */
  readonly direct: readonly string[];
}

export interface WorkerSetup {
  readonly module: WebAssembly.Module;
  readonly operator: OperatorSetup;
}

/** A piece, or the order to hand over the histogram gathered so far. */
export type Job = PieceJob | { readonly kind: "take histogram" };
export type JobResult = PieceResult | Float64Array;
