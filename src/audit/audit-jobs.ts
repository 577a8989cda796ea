import type { TargetShape } from "../checkpoint/projections.js";
import type { KernelSizes } from "../flow/kernels.js";
import type { FlowParams } from "../flow/params.js";
import type { DataFreeFlow } from "../flow/reference.js";
import type { FloatDtype } from "../safetensors/dtypes.js";

/** What crosses between verify and its threads. */

/** What a thread needs to begin. */
export interface AuditSetup {
  /** Bytes read at once, and bands in flight. */
  readonly sizes: KernelSizes;
  /** Set where what the flow gives is computed again for every tile. */
  readonly recount: { readonly flow: DataFreeFlow; readonly params: FlowParams } | undefined;
  /** Files to read past the page cache. */
  readonly direct: readonly string[];
}

/** Re-read one piece of a tensor, in the output and (unless verified alone) in the donor. */
export interface PieceAudit {
  readonly kind: "piece";
  /** Absent for what is carried over. */
  readonly target: TargetShape | undefined;
  /** Absent when an output is verified without its donor. */
  readonly donorPath: string | undefined;
  readonly outputPath: string;
  readonly byteOffset: number;
  readonly byteLength: number;
  readonly rows: number;
  /** Healed tensors: the name that the probe's input is drawn from. */
  readonly healed: string | undefined;
}

export interface PieceFindings {
  readonly digest: string;
  /** Targets: zeros now; killed and already zero need the donor. */
  readonly dead: number;
  readonly killed: number;
  readonly alreadyZero: number;
  /** Elements (targets) or bytes (carried) that are not what they must be. */
  readonly wrong: number;
  /** Byte offset in the file of the first of them, or −1. */
  readonly firstWrong: number;
  /** Elements that are not what the flow gives, where it was recounted, and where the first stands, or −1. */
  readonly unlike: number;
  readonly firstUnlike: number;
  /** Rows compared, where survivors may have been healed. */
  readonly evidence: readonly Float64Array[] | undefined;
  readonly digestSeconds: number;
}

/** Run the reference iteration on tiles of one band and compare with the mask that was written. */
export interface BandProbe {
  readonly kind: "band";
  readonly donorPath: string;
  readonly outputPath: string;
  readonly byteOffset: number;
  readonly dtype: FloatDtype;
  readonly rows: number;
  readonly cols: number;
  readonly flow: DataFreeFlow;
  readonly params: FlowParams;
  /** Tiles are turned before the reference looks at them: their rows in the file are inputs. */
  readonly turned: boolean;
  /** Tile columns to probe. */
  readonly tiles: readonly number[];
}

export interface BandFindings {
  readonly tiles: number;
  readonly weights: number;
  readonly disagreements: number;
  /** Row and column in the band of the first, or undefined. */
  readonly first: readonly [number, number] | undefined;
}

export type AuditJob = PieceAudit | BandProbe;
export type AuditFindings = PieceFindings | BandFindings;
