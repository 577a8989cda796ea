import type { MatrixEngine } from "./engine.js";
import type { InputStatistics } from "./method.js";

/** Gathers the Gram of one place in the model, chunk by chunk of tokens, and the cross-Gram with the donor's inputs where asked for. */
export class StatisticsCollector {
  private readonly gram: Float32Array;
  private readonly cross: Float32Array | undefined;
  private drift: Float32Array | undefined;
  private tokens = 0;

  constructor(
    private readonly cols: number,
    private readonly engine: MatrixEngine,
    withCross: boolean,
  ) {
    this.gram = new Float32Array(cols * cols);
    this.cross = withCross ? new Float32Array(cols * cols) : undefined;
  }

  /** operated, donor: f32 (tokens, cols) of the same tokens. */
  async add(operated: Float32Array, donor?: Float32Array): Promise<void> {
    const tokens = operated.length / this.cols;
    this.tokens += tokens;
    addTo(this.gram, await this.engine.multiplyTransposed(operated, operated, tokens, this.cols, this.cols));
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
    const { tokens, gram, cross, drift } = this;
    for (const sums of [gram, cross, drift]) {
      if (sums !== undefined) for (let at = 0; at < sums.length; at++) sums[at] /= tokens;
    }
    return { tokens, gram, ...(cross === undefined ? {} : { cross }), ...(drift === undefined ? {} : { drift }) };
  }
}

function addTo(sums: Float32Array, values: Float32Array): void {
  for (let at = 0; at < sums.length; at++) sums[at] += values[at];
}
