import { type Feeds, floats, type Session, type Tensor } from "../../engine/session.js";
import type { Activations, SuppliedWeights } from "./activations.js";
import {
  gradientOutput,
  type Judgement,
  layerGradientGraph,
  movesWeights,
  type TrainedTensor,
  trainedBy,
} from "./layer-gradient.js";
import type { LayerRunner } from "./layer-runner.js";

/** What a layer's output should be, and how much each token's error counts. */
export interface Target {
  /** (batch, tokens, hidden) */
  readonly output: Activations;
  /** One a token: Σ importance · |out − target|² is the loss. */
  readonly importance: Float32Array;
}

/**
 * One layer of a model, with the loss of its output or the gradients of chosen tensors: a session that stays open for
 * many steps.
 *
 * Gradients come in arrays that belong to this object and hold until its next run.
 */
export class LayerGradients {
  private readonly gradients = new Map<string, Float32Array>();
  private readonly outputs: Record<string, Tensor> = {};

  private constructor(
    private readonly runner: LayerRunner,
    private readonly session: Session,
    private readonly trained: readonly TrainedTensor[],
    private readonly judgement: Judgement,
  ) {
    if (!movesWeights(judgement)) return;
    for (const { name, shape } of trained) {
      const data = new Float32Array(shape.reduce((product, size) => product * size, 1));
      this.gradients.set(name, data);
      this.outputs[gradientOutput(name)] = runner.engine.f32(data, shape);
    }
  }

  static async open(
    runner: LayerRunner,
    layer: number,
    trained: readonly TrainedTensor[],
    judgement: Judgement,
  ): Promise<LayerGradients> {
    const { architecture, weights, engine } = runner;
    const graph = layerGradientGraph(architecture, weights, layer, trained, judgement, { portable: engine.portable });
    return new LayerGradients(runner, await engine.session(graph, true), trained, judgement);
  }

  /** The loss of the output, and the gradients where they were asked for. */
  async match(
    residual: Activations,
    { output, importance }: Target,
    weights: SuppliedWeights,
  ): Promise<{ loss: number; gradients: ReadonlyMap<string, Float32Array> }> {
    const { runner, session } = this;
    const feeds = this.feeds(residual, weights);
    feeds.target = runner.tensorOf(output);
    feeds.importance = runner.engine.f32(importance, [residual.batch, residual.tokens, 1]);
    const { loss } = await session.run(feeds, { loss: null, ...this.outputs });
    return { loss: floats(loss)[0], gradients: this.gradients };
  }

  /** The layer's output. */
  async forward(residual: Activations, weights: SuppliedWeights): Promise<Activations> {
    const found = await this.session.run(this.feeds(residual, weights));
    return { ...residual, data: floats(found.residual) };
  }

  /** From the gradient of the output to those of the tensors and of the input. */
  async pullBack(
    residual: Activations,
    gradient: Activations,
    weights: SuppliedWeights,
  ): Promise<{ residual: Activations; gradients: ReadonlyMap<string, Float32Array> }> {
    const feeds = this.feeds(residual, weights);
    feeds.residual_gradient = this.runner.tensorOf(gradient);
    const found = await this.session.run(feeds, { residual_in_gradient: null, ...this.outputs });
    return { residual: { ...residual, data: floats(found.residual_in_gradient) }, gradients: this.gradients };
  }

  close(): Promise<void> {
    return this.session.close();
  }

  private feeds(residual: Activations, weights: SuppliedWeights): Feeds {
    const { runner, judgement, trained } = this;
    const { batch, tokens } = residual;
    const feeds: Feeds = {
      residual_in: runner.tensorOf(residual),
      ...runner.placeFeeds(batch, tokens, movesWeights(judgement)),
    };
    for (const { name, shape } of trained) feeds[name] = runner.engine.f32(weights.get(name)!, shape);
    return feeds;
  }
}

/**
 * See before anything takes long that a model's layers have the gradients that will be asked for: of those with
 * targets to match, of all to pull back. Throws `DONOR_ARCHITECTURE`.
 */
export function refuseWithoutGradients(
  runner: LayerRunner,
  isTarget: (tensor: string) => boolean,
  kind: "match" | "pull back",
): void {
  const { architecture, weights, engine } = runner;
  const judgement: Judgement = kind === "match" ? { kind, gradients: true } : { kind };
  for (let layer = 0; layer < runner.layerCount; layer++) {
    const places = runner.projections(layer).filter(({ tensor }) => isTarget(tensor));
    const trained = places.map(trainedBy);
    if (kind === "match" && trained.length === 0) continue;
    layerGradientGraph(architecture, weights, layer, trained, judgement, { portable: engine.portable });
  }
}
