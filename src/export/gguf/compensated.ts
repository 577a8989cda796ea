import type { FloatDtype } from "../../safetensors/dtypes.js";
import { decodeFloats } from "../../safetensors/float-bits.js";
import type { CompensatedType } from "../block-levels.js";
import { compensate } from "../compensation.js";
import { dequantise } from "../dequantise.js";
import type { ModelFolder } from "../model-folder.js";
import type { Quantiser } from "../quantiser.js";
import { FACTOR_LIMIT, inverseFactor, type WeightStatistics } from "../statistics.js";
import { type ConversionTally, measure, newTally, refuseNonFinite } from "../weight-band.js";
import type { Link } from "./links.js";
import { type Piece, segmentsOf } from "./segments.js";

/** Weights whose rows are rounded together: 64 MiB as F32. */
const ROWS_WEIGHTS = 1 << 24;
/** From this share of zeros on a matrix counts as pruned, and its zeros stay zero whatever the type. */
const PRUNED_SHARE = 0.01;

/** Rows of a piece, rounded with compensation. */
export interface CompensatedRows {
  readonly from: number;
  readonly bytes: Uint8Array;
  readonly tally: ConversionTally;
}

/** Rounds pieces whose inputs' Gram is known; keeps the factor of the last Gram, which neighbours share. */
export class Compensation {
  private inputs: string | undefined;
  private factor: Float32Array | undefined;

  constructor(
    private readonly folder: ModelFolder,
    private readonly statistics: WeightStatistics,
    private readonly quantiser: Quantiser,
  ) {}

  /** Whether a piece can be rounded so: its inputs' Gram is known, and no wider than a factor is made of. */
  reaches({ link }: Piece): boolean {
    // A Gram lies in the checkpoint's order of columns.
    if (link.columns !== undefined) return false;
    return link.rowLength <= FACTOR_LIMIT && this.statistics.compensation?.inputsOf(link) !== undefined;
  }

  /** All rows of a piece that `reaches`, in order. */
  async *round(piece: Piece, type: CompensatedType): AsyncGenerator<CompensatedRows> {
    const { link, located } = piece;
    const cols = link.rowLength;
    const limit = Math.max(1, Math.floor(ROWS_WEIGHTS / cols)) * cols;
    const size = Math.min(link.rowCount * cols, limit);
    let weights = new Float32Array(size);
    let filled = 0;
    let from = 0;
    for await (const segment of segmentsOf(this.folder, [piece])) {
      const values = decodeFloats(segment.bytes, located.info.dtype as FloatDtype);
      refuseNonFinite(values, segment.from * cols, { tensor: link.name, type, dtype: located.info.dtype });
      for (let at = 0; at < values.length; ) {
        const taken = Math.min(values.length - at, weights.length - filled);
        weights.set(values.subarray(at, at + taken), filled);
        filled += taken;
        at += taken;
        if (filled < weights.length) continue;
        yield await this.roundRows(weights, from, type, piece);
        from += filled / cols;
        weights = new Float32Array(Math.min((link.rowCount - from) * cols, limit));
        filled = 0;
      }
    }
  }

  private async roundRows(weights: Float32Array, from: number, type: CompensatedType, { link }: Piece) {
    const before = weights.slice();
    const zeros = before.reduce((count, weight) => count + (weight === 0 ? 1 : 0), 0);
    const bytes = await compensate(
      {
        type,
        weights,
        cols: link.rowLength,
        upper: await this.factorOf(link),
        keepsZeros: zeros >= PRUNED_SHARE * before.length,
      },
      this.quantiser,
      this.statistics.compensation!.multiply,
    );
    const tally = newTally();
    measure(before, dequantise(type, bytes), tally, { tensor: link.name, type, first: from * link.rowLength });
    return { from, bytes, tally };
  }

  private async factorOf(link: Link): Promise<Float32Array> {
    const { inputsOf, gram } = this.statistics.compensation!;
    const inputs = inputsOf(link);
    if (this.factor === undefined || inputs !== this.inputs) {
      this.factor = inverseFactor(await gram(link), link.rowLength);
      this.inputs = inputs;
    }
    return this.factor;
  }
}
