import { PhysariumError } from "../errors.js";
import type { ModelConfig } from "./config.js";
import { type Rope, ropeOf } from "./rope.js";

/** Everything the forward pass must know beyond the weights: plain data, made from `config.json` once. */
export interface Architecture {
  readonly modelType: string;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly layerCount: number;
  readonly headCount: number;
  readonly kvHeadCount: number;
  readonly headDim: number;
  readonly vocabSize: number;
  readonly maxPositions: number;
  readonly normEps: number;
  /** The norm multiplies by `weight + normOffset`: 1 in Gemma, 0 elsewhere. */
  readonly normOffset: 0 | 1;
  readonly activation: Activation;
  /** Token embeddings are multiplied by this. */
  readonly embeddingScale: number;
  /** Queries times keys are multiplied by this. */
  readonly attentionScale: number;
  /** `cap · tanh(x / cap)` on attention scores and on logits; `undefined` for none. */
  readonly attentionSoftcap: number | undefined;
  readonly logitSoftcap: number | undefined;
  readonly tiedEmbeddings: boolean;
  /** q, k, v in one tensor and gate, up in another, one behind the other by rows. */
  readonly fused: boolean;
  /** Norms also behind attention and MLP, before the residual is added (Gemma 2 and 3). */
  readonly sandwichNorms: boolean;
  readonly layers: readonly LayerTraits[];
}

export type Activation = "silu" | "gelu" | "gelu_tanh";

export interface LayerTraits {
  /** `undefined` for a layer without position embedding. */
  readonly rope: Rope | undefined;
  /** A token sees itself and the `slidingWindow − 1` tokens before it; `undefined` for all before it. */
  readonly slidingWindow: number | undefined;
}

/** How one family of architectures differs from plain Llama; adding one is this object and a line in families/registry.ts. */
export interface Family {
  readonly modelTypes: readonly string[];
  /** Paper or source of the architecture. */
  readonly reference: string;
  /** What differs; everything left out is Llama's. */
  traits(config: ModelConfig): Partial<Architecture>;
}

/** Every layer alike: one rope, full attention, unless `layer_types` says which layers slide. */
export function likeLlama(config: ModelConfig, { layerCount, headDim, maxPositions }: Architecture): LayerTraits[] {
  const rope = configuredRope(config, headDim, maxPositions);
  const slides = slidingLayers(config, layerCount, () => true);
  const window = config.optionalNumber("sliding_window");
  return slides.map((slide) => ({ rope, slidingWindow: slide ? window : undefined }));
}

/** Which layers have a sliding window: as `layer_types` says, else by the family's own rule. */
export function slidingLayers(config: ModelConfig, layerCount: number, rule: (layer: number) => boolean): boolean[] {
  const types = config.raw("layer_types");
  return Array.from({ length: layerCount }, (_, layer) =>
    Array.isArray(types) ? types[layer] === "sliding_attention" : rule(layer),
  );
}

/** The rope that `rope_theta` and `rope_scaling` (or `rope_parameters`) describe. */
export function configuredRope(config: ModelConfig, headDim: number, maxPositions: number): Rope {
  const parameters = config.record("rope_parameters");
  const scaling = config.record("rope_scaling") ?? parameters;
  const theta = parameters?.rope_theta ?? config.number("rope_theta", 10000);
  const part = parameters?.partial_rotary_factor ?? config.number("partial_rotary_factor", 1);
  return ropeOf({ theta: Number(theta), rotaryDim: Math.trunc(headDim * Number(part)), maxPositions, scaling });
}

export function activationOf(name: string): Activation {
  if (name === "silu" || name === "swish") return "silu";
  if (name === "gelu_pytorch_tanh" || name === "gelu_new" || name === "gelu_fast") return "gelu_tanh";
  if (name === "gelu") return "gelu";
  throw new PhysariumError(
    "DONOR_ARCHITECTURE",
    `config.json: hidden_act "${name}" has no forward pass here; known are silu, gelu and gelu_pytorch_tanh`,
    { hidden_act: name },
  );
}
