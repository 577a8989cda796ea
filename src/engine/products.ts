/** A right factor that stays: products `left · matrix` for as many left factors as wanted. */
export interface RightFactor {
  readonly rows: number;
  readonly cols: number;
  /**
   * out ← left · matrix.
   *
   * left  f32 row-major (leftRows, rows)
   * out   f32 row-major (leftRows, cols); every element is written; must not overlap `left`
   */
  multiply(left: Float32Array, leftRows: number, out: Float32Array): Promise<void>;
  /** Give back what the engine keeps for this factor. */
  release(): Promise<void>;
}

/**
 * What computes matrix products: the one heavy operation of calibration. All matrices are f32, row-major, without
 * padding.
 */
export interface MatrixEngine {
  readonly name: string;
  /** Where it computes: `cpu`, or a device that threads would have to share. */
  readonly device: string;
  /**
   * Keep `matrix` (rows, cols) as a right factor; the engine may rearrange it once, so this pays from a handful of
   * products on.
   */
  bind(matrix: Float32Array, rows: number, cols: number): Promise<RightFactor>;
  /** One product: left (m, k) · right (k, n) → (m, n). */
  multiply(left: Float32Array, right: Float32Array, m: number, k: number, n: number): Promise<Float32Array>;
  /** leftᵀ · right for left (tokens, m) and right (tokens, n) → (m, n): the step of a Gram. */
  multiplyTransposed(
    left: Float32Array,
    right: Float32Array,
    tokens: number,
    m: number,
    n: number,
  ): Promise<Float32Array>;
  release(): Promise<void>;
}

/**
 * Products in plain loops, summed in f64 in the order of k: the readable reference, and what tests use where no engine
 * is installed.
 */
export const plainEngine: MatrixEngine = {
  name: "plain",
  device: "cpu",
  async bind(matrix, rows, cols) {
    return {
      rows,
      cols,
      multiply: async (left, leftRows, out) => plainProduct(left, matrix, leftRows, rows, cols, out),
      release: async () => {},
    };
  },
  async multiply(left, right, m, k, n) {
    const out = new Float32Array(m * n);
    plainProduct(left, right, m, k, n, out);
    return out;
  },
  async multiplyTransposed(left, right, tokens, m, n) {
    const sums = new Float64Array(m * n);
    for (let token = 0; token < tokens; token++) {
      for (let row = 0; row < m; row++) {
        const factor = left[token * m + row];
        for (let col = 0; col < n; col++) sums[row * n + col] += factor * right[token * n + col];
      }
    }
    return Float32Array.from(sums);
  },
  release: async () => {},
};

function plainProduct(
  left: Float32Array,
  right: Float32Array,
  m: number,
  k: number,
  n: number,
  out: Float32Array,
): void {
  const sums = new Float64Array(n);
  for (let row = 0; row < m; row++) {
    sums.fill(0);
    for (let inner = 0; inner < k; inner++) {
      const factor = left[row * k + inner];
      if (factor === 0) continue;
      const base = inner * n;
      for (let col = 0; col < n; col++) sums[col] += factor * right[base + col];
    }
    out.set(sums, row * n);
  }
}
