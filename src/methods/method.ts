import type { MatrixEngine } from "../engine/products.js";
import type { ProductWork } from "./rows/row-block.js";
import type { BlockRunner } from "./rows/runner.js";
import type { Pattern } from "./stages/select.js";

/** What a matrix should lose. */
export type PruneTarget =
  | { readonly kind: "sparsity"; readonly sparsity: number }
  | { readonly kind: "pattern"; readonly pattern: Pattern }
  | { readonly kind: "emergent"; readonly survival: number };

/**
 * What calibration learnt about the inputs of a matrix. All f32 row-major (cols, cols), means over tokens, undamped.
 */
export interface InputStatistics {
  readonly tokens: number;
  /** E[x̂ x̂ᵀ] of the inputs the operated model gives. */
  readonly gram: Float32Array;
  /**
   * E[x x̂ᵀ] with the donor's inputs x; absent where the method does not ask for both streams, or the streams are
   * equal.
   */
  readonly cross?: Float32Array;
  /**
   * E[(h − ĥ) x̂ᵀ], f32 (outputs, cols), where the projection's output is added to the residual stream: h is the
   * donor's stream before the addition, ĥ the operated model's.
   */
  readonly drift?: Float32Array;
  /** E[x̂] of each input, for methods that ask for it. */
  readonly mean?: Float64Array;
}

/**
 * Columns `[colStart, colEnd)` of the same matrices, for inputs whose whole Gram is too large: f32 row-major, one row
 * an input (or output).
 */
export interface StatisticsStrip {
  /** (cols, width) */
  readonly gram: Float32Array;
  readonly cross?: Float32Array;
  /** (outputs, width) */
  readonly drift?: Float32Array;
}

/** Statistics that are gathered strip by strip, as they are asked for. */
export interface TiledStatistics {
  /** Mean over inputs of E[x̂²]: what damping is a share of. */
  readonly meanEnergy: number;
  strip(colStart: number, colEnd: number): Promise<StatisticsStrip>;
}

export interface PruneTask {
  readonly name: string;
  readonly rows: number;
  readonly cols: number;
  /** The donor's weights, f32 row-major (rows, cols); read only. */
  readonly weights: Float32Array;
  readonly target: PruneTarget;
  /** Present unless the method needs weights alone. */
  readonly inputs?: InputStatistics;
  /** E[x²] of each input, in place of `inputs` where no more is known of them; enough for methods that need norms. */
  readonly energies?: Float32Array;
  /**
   * In place of `inputs` where the Gram is restricted to tiles of columns; only the activation flow knows what to do
   * with it.
   */
  readonly tiled?: TiledStatistics;
  readonly engine: MatrixEngine;
  /** Where blocks of rows are worked on, for methods that know them; default one after the other on `engine`. */
  readonly blocks?: BlockRunner;
  /** Ends a method that takes long, with `STOPPED`. */
  readonly signal?: AbortSignal | undefined;
}

export interface StageRecord {
  /** `anchor`, `flow`, `first heal`, `sprout`, `heal`, `donor's bits`: what was just done. */
  readonly stage: string;
  /**
   * Output error after it against what the anchored drive asks for, relative to that output's energy: (y − Q) C (y −
   * Q)ᵀ / y C yᵀ over all rows, tokens weighed as the Gram weighs them; in tiles a sum over tiles. Absent for `anchor`,
   * which moves what is aimed at.
   */
  readonly relativeError?: number;
  /** Of the matrix's time: where blocks run side by side, this stage's share of it. */
  readonly seconds: number;
}

export interface PruneResult {
  /** New weights (rows, cols), f32, dead ones +0; not yet rounded to the donor's dtype. */
  readonly weights: Float32Array;
  /** 1 living, 0 dead. */
  readonly alive: Uint8Array;
  readonly stages: readonly StageRecord[];
  /** Tubes that sprouted where selection had left none, as a share of the living. */
  readonly exchangedShare?: number;
  /** Products of blocks with the coupling, for benches: seconds summed over threads. */
  readonly products?: ProductWork;
}

/** A way to prune one matrix; all are run by the same pipeline. */
export interface PruneMethod {
  readonly name: string;
  readonly title: string;
  /** Address of the paper, or of the document that defines it. */
  readonly reference: string;
  /**
   * `weights`: no calibration. `norms`: E[x²] of the operated model's inputs. `gram`: their Gram. `both`: the donor's
   * inputs beside them.
   */
  readonly needs: "weights" | "norms" | "gram" | "both";
  /** Asks for the inputs' means, too, which a file of Grams does not hold. */
  readonly needsMean?: boolean;
  /** The method where the donor's stream is not there, for one that needs both. */
  withOneStream?(): PruneMethod;
  /**
   * `layer`: all projections of a layer from one pass, as the papers' code does. `four`: q k v, o, gate up, down, each
   * on renewed inputs.
   */
  readonly steps: "layer" | "four";
  /** Behind it the layer is matched as a whole: its survivors move together until its output is the donor's. */
  readonly matches?: boolean;
  /** Uses `PruneTask.blocks` where it is given. */
  readonly worksInBlocks?: boolean;
  prune(task: PruneTask): Promise<PruneResult>;
}

/**
 * Living tubes of each row so that the matrix as a whole reaches `sparsity` to within half a weight: rows differ by at
 * most one, the remainder spread evenly from the first row on.
 */
export function keepPerRow(rows: number, cols: number, sparsity: number): Int32Array {
  const kept = Math.round(rows * cols * (1 - sparsity));
  const keep = new Int32Array(rows);
  for (let row = 0; row < rows; row++) {
    keep[row] = Math.floor(((row + 1) * kept) / rows) - Math.floor((row * kept) / rows);
  }
  return keep;
}
