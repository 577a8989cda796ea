import type { OnnxGraph } from "../../engine/onnx-graph.js";
import { type Feeds, floats } from "../../engine/session.js";
import type { Site } from "../../model/sites.js";
import { type Projection, suppliedName } from "../../model/steps.js";
import type { Activations, SuppliedWeights } from "./activations.js";
import { InnerGraphs } from "./inner-graphs.js";
import type { LayerRunner } from "./layer-runner.js";

const INSIDE = "inside ";

/** What projections see that lie inside a step of one layer: latents, and tokens inside a mixture of experts. */
export class InnerInputs {
  /** What was routed stays known as long as the activations live. */
  private readonly routed = new WeakMap<Activations, Promise<Float32Array>>();
  private readonly projections: readonly Projection[];

  constructor(
    private readonly runner: LayerRunner,
    private readonly layer: number,
  ) {
    this.projections = runner.projections(layer);
  }

  /** (batch · tokens, experts) of a step's input: what each expert counts for each token, 0 where it was not chosen. */
  routing(input: Activations): Promise<Float32Array> {
    const known = this.routed.get(input);
    if (known !== undefined) return known;
    const fresh = this.run("routing", (graphs) => graphs.routing(), input).then(({ routing }) => floats(routing));
    this.routed.set(input, fresh);
    return fresh;
  }

  /** The input of q_b or kv_b. */
  async latent(input: Activations, { source, width }: Site, supplied?: SuppliedWeights): Promise<Activations> {
    const { query, key } = await this.run("latents", (graphs) => graphs.latents(), input, supplied);
    return { ...input, width, data: floats(source === "query latent" ? query : key) };
  }

  /** The input of an expert's down for these tokens of its (tokens, hidden) → (tokens, width). */
  async expertHidden(expert: number, rows: Float32Array, supplied?: SuppliedWeights): Promise<Float32Array> {
    if (rows.length === 0) return rows;
    const seen = this.asInput(rows);
    return floats((await this.run(`expert ${expert}`, (graphs) => graphs.expertHidden(expert), seen, supplied)).hidden);
  }

  /** How much of an error in an expert's gate and up reaches what it gives, one number a token. */
  async expertListening(expert: number, rows: Float32Array): Promise<Float32Array> {
    if (rows.length === 0) return rows;
    const seen = this.asInput(rows);
    return floats((await this.run(`heard in ${expert}`, (graphs) => graphs.expertListening(expert), seen)).listening);
  }

  async sharedHidden(input: Activations, supplied?: SuppliedWeights): Promise<Float32Array> {
    return floats((await this.run("shared", (graphs) => graphs.sharedHidden(), input, supplied)).hidden);
  }

  /** The same as `expertListening` in the MLP that every token passes, and what its output counts for each token. */
  async sharedListening(input: Activations): Promise<{ listening: Float32Array; share: Float32Array }> {
    const { listening, share } = await this.run("heard in shared", (graphs) => graphs.sharedListening(), input);
    return { listening: floats(listening), share: floats(share) };
  }

  /** Let go of the engine's sessions; every expert has some of its own. */
  close(): Promise<void> {
    return this.runner.closeLayer(this.layer, INSIDE);
  }

  private asInput(rows: Float32Array): Activations {
    const width = this.runner.architecture.hiddenSize;
    return { data: rows, batch: 1, tokens: rows.length / width, width };
  }

  private async run(
    key: string,
    graphOf: (graphs: InnerGraphs) => OnnxGraph,
    input: Activations,
    supplied?: SuppliedWeights,
  ): Promise<Feeds> {
    const { runner, layer } = this;
    const here = this.projections.filter((projection) => supplied?.has(suppliedName(projection)));
    const options = { portable: runner.engine.portable, supplied: new Set(here.map(suppliedName)) };
    // Which weights are supplied grows within a layer; what a graph does not use does not make it another.
    const build = () => graphOf(new InnerGraphs(runner.architecture, runner.weights, layer, options));
    const feeds: Feeds = { given: runner.tensorOf(input) };
    runner.feedSupplied(feeds, here, supplied);
    return runner.run(`${layer}: ${INSIDE}${key} ${here.length}`, build, feeds);
  }
}
