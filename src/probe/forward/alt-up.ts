import type { OnnxGraph, Value } from "../../engine/onnx-graph.js";
import type { Architecture } from "../../model/architecture.js";
import type { CarriedValues } from "./carried.js";
import { multiply } from "./graph-parts.js";
import type { LayerParts } from "./layer-parts.js";
import { storedValue, type Weights } from "./weights.js";

/** Copies of the residual stream other than the first, one behind the other, as they go from layer to layer. */
const COPIES = "copies";
/** All copies as a layer predicts them, on their way to being corrected by what its MLP gives. */
const PREDICTED = "predicted";
/** source: `Gemma3nTextModel.forward`: the least mean square that a copy is divided by. */
const LEAST_ENERGY = 1e-5;

interface Model {
  readonly architecture: Architecture;
  readonly weights: Weights;
}

/** The other copies of a stream that begins: products of the first, as large as it is. */
export function keepCopies(graph: OnnxGraph, model: Model, first: Value, carried: CarriedValues): void {
  const { altUp, names, hiddenSize } = model.architecture;
  if (altUp === undefined) return;
  const others = Array.from({ length: altUp.copies - 1 }, (_, at) =>
    asLargeAs(graph, topProduct(graph, model, `${names.altUp!.enter}.${at}`, first), first),
  );
  carried.keep(COPIES, graph.op("Concat", others, { axis: -1 }), others.length * hiddenSize);
}

/**
 * Alternating updates: a layer works on the first copy of the residual stream, predicts all of them before, and
 * corrects them after by what it found. source: arXiv:2301.13310; `Gemma3nTextAltUp` of transformers 5.24
 */
export class AltUp {
  private readonly predicted = new Map<Value, Value>();

  constructor(
    private readonly parts: LayerParts & { readonly graph: OnnxGraph },
    private readonly model: Model,
    private readonly carried: CarriedValues,
  ) {}

  /** Residual → the first copy as it is predicted. */
  active(residual: Value): Value {
    return this.split(this.predict(residual))[0];
  }

  /** What attention gave beside a detour of low rank; the predictions go on to `leave`. */
  addDetour(residual: Value, normed: Value, attended: Value): Value {
    const { graph } = this.parts;
    const { hiddenSize, names, altUp } = this.model.architecture;
    const { laurel } = names.altUp!;
    this.carried.keep(PREDICTED, this.predict(residual), altUp!.copies * hiddenSize);
    const narrow = this.parts.linear(normed, `${laurel}.linear_left`, altUp!.laurelRank, hiddenSize);
    const wide = this.parts.linear(narrow, `${laurel}.linear_right`, hiddenSize, altUp!.laurelRank);
    const detour = graph.op("Add", [normed, this.parts.norm(wide, `${laurel}.post_laurel_norm`, hiddenSize)]);
    return graph.op("Mul", [graph.op("Add", [attended, detour]), graph.scalar(Math.SQRT1_2)]);
  }

  /**
   * What the MLP gave → the first copy, corrected; the others are kept with `told` added, which is made of the first.
   * Behind the last layer all copies become one.
   */
  leave(activated: Value, isLast: boolean, told: (first: Value) => Value): Value {
    const { graph } = this.parts;
    const { hiddenSize, names, altUp } = this.model.architecture;
    const copies = altUp!.copies;
    const at = (name: string): string => `${names.altUp!.layer}.${name}`;
    const predictions = this.split(this.carried.get(PREDICTED, copies * hiddenSize));
    const coefficients = this.parts.linear(this.modalities(activated), at("correction_coefs"), copies, copies);
    const ones = graph.op("Add", [coefficients, graph.scalar(1)]);
    const factors = graph.ops("Split", [ones, graph.integers(...new Array<number>(copies).fill(1))], copies, {
      axis: -1,
    });
    const news = graph.op("Sub", [activated, predictions[0]]);
    const corrected = predictions.map((each, copy) => graph.op("Add", [each, graph.op("Mul", [news, factors[copy]])]));
    const [first, ...others] = corrected;
    const scaled = altUp!.scalesCorrected
      ? graph.op("Mul", [first, this.parts.stored(at("correct_output_scale"), [hiddenSize])])
      : first;
    const own = told(scaled);
    const next = others.map((each) => graph.op("Add", [each, own]));
    this.carried.keep(COPIES, graph.op("Concat", next, { axis: -1 }), next.length * hiddenSize);
    return isLast ? this.merge(first, next) : first;
  }

  private merge(first: Value, others: readonly Value[]): Value {
    const { graph } = this.parts;
    const { names } = this.model.architecture;
    const all = others.map((each, at) =>
      asLargeAs(graph, topProduct(graph, this.model, `${names.altUp!.leave}.${at}`, each), first),
    );
    const sum = all.reduce((total, each) => graph.op("Add", [total, each]), first);
    return graph.op("Mul", [sum, graph.scalar(1 / (1 + all.length))]);
  }

  /** Residual → all copies as predicted, (batch, tokens, copies × hidden). */
  private predict(residual: Value): Value {
    const known = this.predicted.get(residual);
    if (known !== undefined) return known;
    const { graph } = this.parts;
    const { hiddenSize, names, altUp } = this.model.architecture;
    const copies = altUp!.copies;
    const others = this.carried.get(COPIES, (copies - 1) * hiddenSize);
    const all = graph.op("Concat", [residual, others], { axis: -1 });
    const stacked = graph.op("Reshape", [all, graph.integers(0, 0, copies, hiddenSize)]);
    const path = `${names.altUp!.layer}.prediction_coefs`;
    const flat = this.parts.linear(this.modalities(residual), path, copies * copies, copies);
    const mixing = graph.op("Reshape", [flat, graph.integers(0, 0, copies, copies)]);
    const mixed = graph.op("Add", [graph.op("MatMul", [mixing, stacked]), stacked]);
    const predicted = graph.op("Reshape", [mixed, graph.integers(0, 0, copies * hiddenSize)]);
    this.predicted.set(residual, predicted);
    return predicted;
  }

  private modalities(x: Value): Value {
    const { graph } = this.parts;
    const { hiddenSize, names, altUp } = this.model.architecture;
    const at = (name: string): string => `${names.altUp!.layer}.${name}`;
    const normed = graph.op("Mul", [this.parts.norm(x, at("router_norm"), hiddenSize), graph.scalar(1 / hiddenSize)]);
    return graph.op("Tanh", [this.parts.linear(normed, at("modality_router"), altUp!.copies, hiddenSize)]);
  }

  private split(all: Value): Value[] {
    const { hiddenSize, altUp } = this.model.architecture;
    const { graph } = this.parts;
    const sizes = graph.integers(...new Array<number>(altUp!.copies).fill(hiddenSize));
    return graph.ops("Split", [all, sizes], altUp!.copies, { axis: -1 });
  }
}

/** x Wᵀ for a square matrix outside of the layers. */
function topProduct(graph: OnnxGraph, { architecture, weights }: Model, name: string, x: Value): Value {
  const { hiddenSize } = architecture;
  const matrix = storedValue(graph, weights.get(`${weights.named(name)}.weight`, [hiddenSize, hiddenSize]));
  return multiply(graph, x, matrix, hiddenSize, hiddenSize, true);
}

/** A value as large as another one, token by token. */
function asLargeAs(graph: OnnxGraph, value: Value, other: Value): Value {
  const energy = (of: Value): Value =>
    graph.op("ReduceMean", [graph.op("Mul", [of, of]), graph.integers(-1)], { keepdims: 1 });
  const wanted = graph.op("Sqrt", [energy(other)]);
  const own = graph.op("Sqrt", [graph.op("Max", [energy(value), graph.scalar(LEAST_ENERGY)])]);
  return graph.op("Div", [graph.op("Mul", [value, wanted]), own]);
}
