import type { PruneResult, StageRecord } from "../methods/method.js";
import type { ProductWork } from "../methods/rows/row-block.js";
import { fromFile, type Projection, type Step, suppliedName, toFile } from "../model/steps.js";
import { compareRows, type Evidence, evidenceOf, probeSigns } from "../record/evidence.js";
import { bytesPerFloat, type FloatDtype } from "../safetensors/dtypes.js";
import { decodeFloats, encodeFloats, keepLiving, MOVED_WEIGHTS } from "../safetensors/float-bits.js";

/** Weights of an operated matrix, counted. */
export interface WeightCounts {
  /** ±0 now, and in the donor. */
  readonly zeros: number;
  readonly zerosBefore: number;
  /** Survivors whose bits differ from the donor's. */
  readonly survivorsChanged: number;
  /** Those of them that were ±0. */
  readonly revived: number;
}

/** One operated tensor, as it will stand in the checkpoint: a matrix, or a stack of them. */
export interface OperatedTensor extends WeightCounts {
  readonly name: string;
  readonly layer: number;
  readonly projection: string;
  readonly step: Step;
  readonly dtype: FloatDtype;
  readonly matrixCount: number;
  /** Of each matrix. */
  readonly rows: number;
  readonly cols: number;
  /** The file holds each as (cols, rows), and so do `bytes`. */
  readonly transposed: boolean;
  /** Little-endian, in the donor's dtype. */
  readonly bytes: Uint8Array;
  /** What ties them to the donor's, for verify. */
  readonly evidence: Evidence;
  readonly stages: readonly StageRecord[];
  readonly exchangedShare?: number;
  /** How the Gram of its inputs was used. */
  readonly gram: "whole" | "tiles";
  /** Calibration tokens that each expert saw; absent where every token came. */
  readonly expertTokens?: readonly number[];
  readonly products?: ProductWork;
  readonly seconds: number;
}

/** What was done to one matrix. */
export interface OperatedMatrix {
  readonly result: PruneResult;
  readonly gram: "whole" | "tiles";
  /** Where an expert alone saw them. */
  readonly tokens?: number;
  readonly seconds: number;
}

/** What a tensor's new weights are in the checkpoint, and what ties them to the donor's. */
export type StoredWeights = WeightCounts & Pick<OperatedTensor, "bytes" | "evidence">;

/** The bytes of a tensor whose new weights come matrix by matrix, rounded to the donor's dtype. */
export class TensorBytes {
  private readonly bytes: Uint8Array;
  private readonly signs: Float64Array;
  private readonly evidence: Float64Array[];
  private readonly counts = { zeros: 0, zerosBefore: 0, survivorsChanged: 0, revived: 0 };

  /** `place`: any of the tensor's projections. `keepsMask`: no weight that lives may round to 0. */
  constructor(
    { tensor, rows, cols, transposed, stack }: Projection,
    private readonly dtype: FloatDtype,
    private readonly keepsMask = false,
  ) {
    const count = stack?.count ?? 1;
    this.bytes = new Uint8Array(count * rows * cols * bytesPerFloat(dtype));
    this.signs = probeSigns(tensor, transposed ? rows : cols);
    this.evidence = new Array(count);
  }

  /** Take a matrix, f32 (rows, cols) before and after. Returns its weights as the file will give them. */
  take(place: Projection, before: Float32Array, after: Float32Array): Float32Array {
    const index = place.stack?.index ?? 0;
    const moved = toFile(after, place);
    const bytes = encodeFloats(moved, this.dtype, MOVED_WEIGHTS);
    if (this.keepsMask) keepLiving(bytes, moved, this.dtype);
    this.bytes.set(bytes, index * bytes.byteLength);
    const stored = decodeFloats(bytes, this.dtype, "copy");
    // As the file has them: whoever verifies reads bands of its rows.
    const donor = toFile(before, place);
    this.count(donor, stored);
    this.evidence[index] = compareRows(donor, stored, this.signs);
    return fromFile(stored, place);
  }

  finish(): StoredWeights {
    return { bytes: this.bytes, ...this.counts, evidence: evidenceOf(this.evidence) };
  }

  /**
   * What became of a matrix's weights: everything that its record counts against the donor, so that nobody reads the
   * donor again for it.
   */
  private count(before: Float32Array, after: Float32Array): void {
    const { counts } = this;
    for (let at = 0; at < after.length; at++) {
      if (before[at] === 0) counts.zerosBefore++;
      if (after[at] === 0) counts.zeros++;
      else if (after[at] !== before[at]) {
        counts.survivorsChanged++;
        if (before[at] === 0) counts.revived++;
      }
    }
  }
}

/** A tensor being operated on: its matrices come one by one. */
export class TensorUnderWork {
  private readonly stored: TensorBytes;
  private readonly parts: (OperatedMatrix & { living: number })[] = [];

  constructor(
    private readonly layer: number,
    private readonly place: Projection,
    private readonly dtype: FloatDtype,
  ) {
    this.stored = new TensorBytes(place, dtype);
  }

  get isDone(): boolean {
    return this.parts.length === this.matrixCount;
  }

  /** Take the next matrix; `before` is the donor's. Returns its new weights as the file will give them. */
  take(place: Projection, before: Float32Array, matrix: OperatedMatrix): Float32Array {
    const weights = this.stored.take(place, before, matrix.result.weights);
    const living = weights.reduce((sum, weight) => sum + Number(weight !== 0), 0);
    this.parts.push({ ...matrix, living });
    return weights;
  }

  finish(): OperatedTensor {
    const { layer, place, dtype, matrixCount, parts } = this;
    const { tensor, projection, step, rows, cols, transposed } = place;
    const living = parts.reduce((sum, part) => sum + part.living, 0);
    const exchanged = parts.reduce((sum, part) => sum + (part.result.exchangedShare ?? 0) * part.living, 0);
    const withProducts = parts.flatMap(({ result }) => result.products ?? []);
    return {
      name: tensor,
      layer,
      projection,
      step,
      dtype,
      matrixCount,
      rows,
      cols,
      transposed,
      ...this.stored.finish(),
      stages: stagesOf(parts.map(({ result }) => result.stages)),
      gram: parts[0].gram,
      ...(parts[0].tokens === undefined ? {} : { expertTokens: parts.map(({ tokens = 0 }) => tokens) }),
      ...(parts[0].result.exchangedShare === undefined
        ? {}
        : { exchangedShare: matrixCount === 1 ? parts[0].result.exchangedShare : exchanged / Math.max(1, living) }),
      ...(withProducts.length === 0 ? {} : { products: addProducts(withProducts) }),
      seconds: parts.reduce((sum, { seconds }) => sum + seconds, 0),
    };
  }

  private get matrixCount(): number {
    return this.place.stack?.count ?? 1;
  }
}

/** Stored bytes of a tensor → the weights of one of its projections, under the name they are supplied by. */
export function suppliedFrom(bytes: Uint8Array, dtype: FloatDtype, place: Projection): [string, Float32Array] {
  const length = place.rows * place.cols * bytesPerFloat(dtype);
  const start = (place.stack?.index ?? 0) * length;
  const own = decodeFloats(bytes.subarray(start, start + length), dtype, "copy");
  return [suppliedName(place), fromFile(own, place)];
}

/** Every matrix of an operated tensor under the name that it is supplied by. */
export function* suppliedOf(tensor: OperatedTensor): Generator<[string, Float32Array]> {
  const { name, matrixCount: count } = tensor;
  for (let index = 0; index < count; index++) {
    const place = { ...tensor, tensor: name, ...(count === 1 ? {} : { stack: { index, count } }) };
    yield suppliedFrom(tensor.bytes, tensor.dtype, place);
  }
}

/** A matrix's stages, or those of a stack: errors averaged over its matrices, seconds added up. */
function stagesOf(matrices: readonly (readonly StageRecord[])[]): StageRecord[] {
  if (matrices.length === 1) return [...matrices[0]];
  const names = [...new Set(matrices.flatMap((stages) => stages.map(({ stage }) => stage)))];
  return names.map((stage) => {
    const own = matrices.flatMap((stages) => stages.filter((each) => each.stage === stage));
    const errors = own.flatMap(({ relativeError }) => relativeError ?? []);
    const seconds = own.reduce((sum, each) => sum + each.seconds, 0);
    const mean = errors.reduce((sum, error) => sum + error, 0) / errors.length;
    return errors.length === 0 ? { stage, seconds } : { stage, relativeError: mean, seconds };
  });
}

function addProducts(products: readonly ProductWork[]): ProductWork {
  return products.reduce((sum, { flops, seconds }) => ({ flops: sum.flops + flops, seconds: sum.seconds + seconds }));
}
