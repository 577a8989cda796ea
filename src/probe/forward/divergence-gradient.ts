import { gradientsOf } from "../../engine/gradient.js";
import { OnnxGraph } from "../../engine/onnx-graph.js";
import { type Feeds, floats, type Session } from "../../engine/session.js";
import type { Activations } from "./activations.js";
import { finalNormOf, type HeadOf, logitsOf } from "./head-graph.js";
import type { LayerRunner } from "./layer-runner.js";

/** Bytes that the logits of the places in work take, of one model; four such arrays are alive at once. */
const LOGIT_BYTES = 64 * 2 ** 20;

/**
 * A model's end with what its output loses against the donor's.
 *
 * inputs   donor, operated: the last residual streams, (1, places, hidden)
 * outputs  divergence (1, places, 1): KL(donor ‖ operated) of each place, nats; gradient (1, places, hidden): of their
 *          sum, by `operated`
 */
export function divergenceGraph(head: HeadOf, portable: boolean): OnnxGraph {
  const { hiddenSize, vocabSize } = head.architecture;
  const graph = new OnnxGraph();
  const dims = [1, "places", hiddenSize];
  const [donor, operated] = ["donor", "operated"].map((name) => graph.input(name, "FLOAT", dims));
  const [p, q] = [donor, operated].map((residual) => {
    const logits = logitsOf(graph, head, finalNormOf(graph, head, residual), [0, vocabSize], portable);
    return { logits, log: graph.op("LogSoftmax", [logits], { axis: -1 }) };
  });
  const likely = graph.op("Exp", [p.log]);
  const lost = graph.op("Mul", [likely, graph.op("Sub", [p.log, q.log])]);
  graph.output("divergence", graph.op("ReduceSum", [lost, graph.integers(-1)], { keepdims: 1 }), "FLOAT", [
    1,
    "places",
    1,
  ]);
  // d KL / d logits of the operated model is q − p.
  const seed = graph.op("Sub", [graph.op("Exp", [q.log]), likely]);
  const gradient = gradientsOf(graph, new Map([[q.logits, seed]]), [operated], { portable }).get(operated)!;
  graph.output("gradient", gradient, "FLOAT", dims);
  return graph;
}

/** How far the operated model's next-token probabilities are from the donor's, and where that gradient points. */
export class DivergenceGradient {
  private constructor(
    private readonly runner: LayerRunner,
    private readonly session: Session,
  ) {}

  static async open(runner: LayerRunner): Promise<DivergenceGradient> {
    const { portable } = runner.engine;
    return new DivergenceGradient(runner, await runner.engine.session(divergenceGraph(runner, portable), false));
  }

  /** Mean KL over all places of a batch, and its gradient by the operated model's last residual stream. */
  async of(donor: Activations, operated: Activations): Promise<{ divergence: number; gradient: Activations }> {
    const { runner, session } = this;
    const { hiddenSize, vocabSize } = runner.architecture;
    const places = operated.batch * operated.tokens;
    const atOnce = Math.max(1, Math.floor(LOGIT_BYTES / 4 / vocabSize));
    const data = new Float32Array(operated.data.length);
    let sum = 0;
    for (let start = 0; start < places; start += atOnce) {
      const end = Math.min(start + atOnce, places);
      const part = (values: Float32Array) =>
        runner.engine.f32(values.subarray(start * hiddenSize, end * hiddenSize), [1, end - start, hiddenSize]);
      const feeds: Feeds = { donor: part(donor.data), operated: part(operated.data) };
      const found = await session.run(feeds);
      for (const value of floats(found.divergence)) sum += value;
      data.set(floats(found.gradient), start * hiddenSize);
    }
    for (let at = 0; at < data.length; at++) data[at] /= places;
    return { divergence: sum / places, gradient: { ...operated, data } };
  }

  close(): Promise<void> {
    return this.session.close();
  }
}
