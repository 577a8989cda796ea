import { OnnxGraph } from "../../engine/onnx-graph.js";
import { type Engine, floats, type Session } from "../../engine/session.js";
import type { Activations } from "../../probe/forward/layer-runner.js";

/** What is kept of a projection's inputs: the whole Gram matrix, or its diagonal alone, which costs no product. */
export type GramKind = "gram" | "norms";

/**
 * Tokens multiplied at once. Within such a stretch the products are summed in f32 by the engine, beyond it in f64 here,
 * so neither the length of the text nor the batches it comes in show in the result: a stretch of 2048 f32 sums is good
 * to about 1e-6 of Σ|x_i x_j|.
 */
const TOKENS_AT_ONCE = 2048;

/** XᵀX of f32 matrices on the engine. One for a whole collection: the graph serves every width. */
export class GramProduct {
  private constructor(
    private readonly engine: Engine,
    private readonly session: Session,
  ) {}

  static async open(engine: Engine): Promise<GramProduct> {
    const graph = new OnnxGraph();
    const left = graph.input("left", "FLOAT", ["tokens", "left_width"]);
    const right = graph.input("right", "FLOAT", ["tokens", "right_width"]);
    const product = engine.portable
      ? graph.op("MatMul", [graph.op("Transpose", [left]), right])
      : graph.op("FusedMatMul", [left, right], { transA: 1 }, "com.microsoft");
    graph.output("product", product, "FLOAT", ["left_width", "right_width"]);
    return new GramProduct(engine, await engine.session(graph, true));
  }

  /** leftᵀ · right for row-major (tokens, leftWidth) and (tokens, rightWidth) → (leftWidth, rightWidth). */
  async multiply(
    left: Float32Array,
    leftWidth: number,
    right: Float32Array,
    rightWidth: number,
  ): Promise<Float32Array> {
    const tokens = left.length / leftWidth;
    const { product } = await this.session.run({
      left: this.engine.f32(left, [tokens, leftWidth]),
      right: this.engine.f32(right, [tokens, rightWidth]),
    });
    return floats(product);
  }

  close(): Promise<void> {
    return this.session.close();
  }
}

/**
 * E[x xᵀ] over all tokens given, or E[x²] alone.
 *
 * Sums are f64: width² × 8 bytes for `gram`. The mean does not depend on how the tokens were batched, beyond 1e-5
 * relative to its diagonal.
 */
export class GramAccumulator {
  private readonly sums: Float64Array;
  tokenCount = 0;

  constructor(
    readonly width: number,
    readonly kind: GramKind,
    private readonly product?: GramProduct,
  ) {
    this.sums = new Float64Array(kind === "gram" ? width * width : width);
  }

  /**
   * Add the inputs of more tokens; with `lengths` only the first so many tokens of each row of the batch count, the
   * rest is padding.
   */
  async add(inputs: Activations, lengths?: readonly number[]): Promise<void> {
    const { data, width } = lengths === undefined ? inputs : withoutPadding(inputs, lengths);
    const tokens = data.length / width;
    this.tokenCount += tokens;
    for (let start = 0; start < tokens; start += TOKENS_AT_ONCE) {
      const part = data.subarray(start * width, Math.min(start + TOKENS_AT_ONCE, tokens) * width);
      if (this.kind === "norms") this.addSquares(part);
      else this.addProduct(await this.product!.multiply(part, width, part, width));
    }
  }

  /** The mean: f32 (width, width), exactly symmetric, or (width) for norms. */
  mean(): Float32Array {
    const { sums, width } = this;
    // Where no token came there is nothing.
    const tokenCount = Math.max(1, this.tokenCount);
    if (this.kind === "norms") return Float32Array.from(sums, (value) => value / tokenCount);
    const mean = new Float32Array(sums.length);
    for (let row = 0; row < width; row++) {
      for (let col = 0; col <= row; col++) {
        // The engine sums the two halves in different orders.
        const value = (sums[row * width + col] + sums[col * width + row]) / (2 * tokenCount);
        mean[row * width + col] = value;
        mean[col * width + row] = value;
      }
    }
    return mean;
  }

  private addSquares(part: Float32Array): void {
    const { sums, width } = this;
    for (let start = 0; start < part.length; start += width) {
      for (let channel = 0; channel < width; channel++) sums[channel] += part[start + channel] ** 2;
    }
  }

  private addProduct(product: Float32Array): void {
    const { sums } = this;
    for (let at = 0; at < sums.length; at++) sums[at] += product[at];
  }
}

function withoutPadding(inputs: Activations, lengths: readonly number[]): Activations {
  const { data, batch, tokens, width } = inputs;
  if (lengths.every((length) => length === tokens)) return inputs;
  const kept = lengths.reduce((sum, length) => sum + length, 0);
  const packed = new Float32Array(kept * width);
  let at = 0;
  for (let row = 0; row < batch; row++) {
    packed.set(data.subarray(row * tokens * width, (row * tokens + lengths[row]) * width), at);
    at += lengths[row] * width;
  }
  return { data: packed, batch: 1, tokens: kept, width };
}
