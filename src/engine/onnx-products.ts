import type { InferenceSession, Tensor } from "onnxruntime-node";
import { OnnxGraph } from "./onnx-graph.js";
import type { MatrixEngine, RightFactor } from "./products.js";
import { type EngineOptions, openRuntime, providersOf } from "./runtime.js";

/**
 * Products through ONNX Runtime's MatMul.
 *
 * A bound right factor becomes an initializer, which the runtime packs once (285–297 GFLOP/s on two threads against 250
 * as an input). Inputs and outputs are used in place. Throws what `openRuntime` throws.
 */
export async function openOnnxEngine(choice: EngineOptions = {}): Promise<MatrixEngine> {
  const { runtime, device, threads } = await openRuntime(choice);
  const options: InferenceSession.SessionOptions = {
    executionProviders: providersOf(device),
    executionMode: "sequential",
    intraOpNumThreads: threads,
  };
  let free: InferenceSession | undefined;
  let transposed: InferenceSession | undefined;
  const tensor = (data: Float32Array, rows: number, cols: number): Tensor =>
    new runtime.Tensor("float32", data.length === rows * cols ? data : data.subarray(0, rows * cols), [rows, cols]);

  return {
    name: "onnxruntime",
    device,
    async bind(matrix, rows, cols): Promise<RightFactor> {
      const graph = new OnnxGraph();
      const left = graph.input("left", "FLOAT", ["m", rows]);
      const right = graph.external("FLOAT", [rows, cols], BOUND_FILE, 0, matrix.byteLength);
      graph.output("product", graph.op("MatMul", [left, right]), "FLOAT", ["m", cols]);
      const data = new Uint8Array(matrix.buffer, matrix.byteOffset, matrix.byteLength);
      const session = await runtime.InferenceSession.create(graph.serialize(), {
        ...options,
        externalData: [{ path: BOUND_FILE, data }],
      });
      return {
        rows,
        cols,
        async multiply(leftData, leftRows, out) {
          if (leftRows === 0) return;
          await session.run({ left: tensor(leftData, leftRows, rows) }, { product: tensor(out, leftRows, cols) });
        },
        release: () => session.release(),
      };
    },
    async multiply(left, right, m, k, n) {
      const out = new Float32Array(m * n);
      if (m === 0) return out;
      if (free === undefined) {
        const graph = new OnnxGraph();
        const inputs = [graph.input("left", "FLOAT", ["m", "k"]), graph.input("right", "FLOAT", ["k", "n"])];
        graph.output("product", graph.op("MatMul", inputs), "FLOAT", ["m", "n"]);
        free = await runtime.InferenceSession.create(graph.serialize(), options);
      }
      await free.run({ left: tensor(left, m, k), right: tensor(right, k, n) }, { product: tensor(out, m, n) });
      return out;
    },
    async multiplyTransposed(left, right, tokens, m, n) {
      const out = new Float32Array(m * n);
      if (tokens === 0) return out;
      if (transposed === undefined) {
        const graph = new OnnxGraph();
        const inputs = [graph.input("left", "FLOAT", ["tokens", "m"]), graph.input("right", "FLOAT", ["tokens", "n"])];
        // The fused operator is the CPU's own.
        const product =
          device === "cpu"
            ? graph.op("FusedMatMul", inputs, { transA: 1 }, "com.microsoft")
            : graph.op("MatMul", [graph.op("Transpose", [inputs[0]], { perm: [1n, 0n] }), inputs[1]]);
        graph.output("product", product, "FLOAT", ["m", "n"]);
        transposed = await runtime.InferenceSession.create(graph.serialize(), options);
      }
      await transposed.run(
        { left: tensor(left, tokens, m), right: tensor(right, tokens, n) },
        { product: tensor(out, m, n) },
      );
      return out;
    },
    async release() {
      await free?.release();
      await transposed?.release();
      free = undefined;
      transposed = undefined;
    },
  };
}

/** The name under which a bound factor is handed to the runtime; no file of that name is read. */
const BOUND_FILE = "bound-factor";
