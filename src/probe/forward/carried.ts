import type { OnnxGraph, Value } from "../../engine/onnx-graph.js";
import { type Engine, type Feeds, floats, type Tensor } from "../../engine/session.js";
import type { Activations } from "./activations.js";

/** Inputs of a graph, and its outputs: a layer may change what it takes. */
const TAKEN = "carried_";
const KEPT = "kept_";

/** What goes from layer to layer beside the residual stream, inside one graph: (batch, tokens, its width) each. */
export class CarriedValues {
  private readonly values = new Map<string, Value>();
  private readonly kept = new Map<string, number>();

  constructor(private readonly graph: OnnxGraph) {}

  /** What a layer of this graph kept, else what comes with the residual stream. */
  get(name: string, width: number): Value {
    return this.values.get(name) ?? this.graph.input(`${TAKEN}${name}`, "FLOAT", ["batch", "tokens", width]);
  }

  keep(name: string, value: Value, width: number): void {
    this.values.set(name, value);
    this.kept.set(name, width);
  }

  /** Make all that was kept outputs of the graph. */
  emit(): void {
    for (const [name, width] of this.kept) {
      this.graph.output(`${KEPT}${name}`, this.values.get(name)!, "FLOAT", ["batch", "tokens", width]);
    }
  }
}

/** What a graph takes beside the residual stream. */
export function takenNames({ inputNames }: OnnxGraph): string[] {
  return inputNames.filter((name) => name.startsWith(TAKEN)).map((name) => name.slice(TAKEN.length));
}

/** What comes with a residual stream, for a graph. */
export function carriedFeeds({ carried, batch, tokens }: Activations, engine: Engine): Feeds {
  return Object.fromEntries(
    Object.entries(carried ?? {}).map(([name, data]) => [
      `${TAKEN}${name}`,
      engine.f32(data, [batch, tokens, data.length / batch / tokens]),
    ]),
  );
}

/** The same stream with what a graph kept. */
export function withCarried(stream: Activations, outputs: Feeds): Activations {
  const fresh = keptOf(outputs);
  if (fresh.length === 0) return stream;
  const own = Object.fromEntries(fresh.map(([name, tensor]) => [name, floats(tensor)]));
  return { ...stream, carried: { ...stream.carried, ...own } };
}

/** Of a graph's outputs, what the next graph takes. */
export function carriedOutputs(outputs: Feeds): Feeds {
  return Object.fromEntries(keptOf(outputs).map(([name, tensor]) => [`${TAKEN}${name}`, tensor]));
}

function keptOf(outputs: Feeds): [name: string, tensor: Tensor][] {
  return Object.entries(outputs).flatMap(([name, tensor]): [string, Tensor][] =>
    name.startsWith(KEPT) ? [[name.slice(KEPT.length), tensor]] : [],
  );
}
