import type { MatrixEngine } from "../engine/products.js";
import type { InputStatistics, StatisticsStrip, TiledStatistics } from "../methods/method.js";

/**
 * Gathers the Gram of one place in the model, chunk by chunk of tokens, and the cross-Gram with the donor's inputs
 * where asked for.
 */
export class StatisticsCollector {
  private readonly gram: Float32Array;
  private readonly cross: Float32Array | undefined;
  private drift: Float32Array | undefined;
  private readonly mean: Float64Array | undefined;
  private tokens = 0;

  constructor(
    private readonly cols: number,
    private readonly engine: MatrixEngine,
    withCross: boolean,
    withMean = false,
  ) {
    this.gram = new Float32Array(cols * cols);
    this.cross = withCross ? new Float32Array(cols * cols) : undefined;
    this.mean = withMean ? new Float64Array(cols) : undefined;
  }

  /** operated, donor: f32 (tokens, cols) of the same tokens. */
  async add(operated: Float32Array, donor?: Float32Array): Promise<void> {
    const tokens = operated.length / this.cols;
    this.tokens += tokens;
    addTo(this.gram, await this.engine.multiplyTransposed(operated, operated, tokens, this.cols, this.cols));
    const { mean, cols } = this;
    if (mean !== undefined) for (let at = 0; at < operated.length; at++) mean[at % cols] += operated[at];
    if (this.cross === undefined || donor === undefined) return;
    addTo(this.cross, await this.engine.multiplyTransposed(donor, operated, tokens, this.cols, this.cols));
  }

  /** How far the residual stream has drifted, h − ĥ: f32 (tokens, width) of the tokens of one `add`. */
  async addDrift(operated: Float32Array, difference: Float32Array, width: number): Promise<void> {
    const tokens = operated.length / this.cols;
    this.drift ??= new Float32Array(width * this.cols);
    addTo(this.drift, await this.engine.multiplyTransposed(difference, operated, tokens, width, this.cols));
  }

  /** Means over the tokens seen; the collector is spent. */
  finish(): InputStatistics {
    const { tokens, gram, cross, drift, mean } = this;
    for (const sums of [gram, cross, drift, mean]) {
      if (sums !== undefined) for (let at = 0; at < sums.length; at++) sums[at] /= tokens;
    }
    return {
      tokens,
      gram,
      ...(cross === undefined ? {} : { cross }),
      ...(drift === undefined ? {} : { drift }),
      ...(mean === undefined ? {} : { mean }),
    };
  }
}

function addTo(sums: Float32Array, values: Float32Array): void {
  for (let at = 0; at < sums.length; at++) sums[at] += values[at];
}

/** Inputs of one place in the model, of the same tokens in every array: f32 row-major (tokens, width). */
export interface InputChunk {
  readonly operated: Float32Array;
  readonly donor?: Float32Array;
  /** h − ĥ, (tokens, outputs). */
  readonly drift?: Float32Array;
  /** How much each token counts, before squaring. */
  readonly weights?: Float64Array;
}

/** Strips of the Gram computed from the inputs themselves, which stay in memory: n² numbers are never held. */
export function tiledStatistics(chunks: readonly InputChunk[], cols: number, engine: MatrixEngine): TiledStatistics {
  let tokens = 0;
  let energy = 0;
  for (const { operated, weights } of chunks) {
    const count = operated.length / cols;
    tokens += count;
    for (let token = 0; token < count; token++) {
      let sum = 0;
      for (let at = token * cols, end = at + cols; at < end; at++) sum += operated[at] ** 2;
      energy += sum * (weights?.[token] ?? 1) ** 2;
    }
  }
  return {
    meanEnergy: energy / tokens / cols,
    async strip(colStart, colEnd): Promise<StatisticsStrip> {
      const width = colEnd - colStart;
      const sums = new Map<keyof StatisticsStrip, Float32Array>();
      const add = async (name: keyof StatisticsStrip, left: Float32Array, leftCols: number, right: Float32Array) => {
        const product = await engine.multiplyTransposed(left, right, right.length / width, leftCols, width);
        const known = sums.get(name);
        if (known === undefined) sums.set(name, product);
        else addTo(known, product);
      };
      for (const { operated, donor, drift, weights } of chunks) {
        const count = operated.length / cols;
        const slice = new Float32Array(count * width);
        for (let token = 0; token < count; token++) {
          const scale = (weights?.[token] ?? 1) ** 2 / tokens;
          for (let col = 0; col < width; col++) {
            slice[token * width + col] = operated[token * cols + colStart + col] * scale;
          }
        }
        await add("gram", operated, cols, slice);
        if (donor !== undefined) await add("cross", donor, cols, slice);
        if (drift !== undefined) await add("drift", drift, drift.length / count, slice);
      }
      return Object.fromEntries(sums) as unknown as StatisticsStrip;
    },
  };
}
