import { PhysariumError } from "../errors.js";
import type { ModelConfig } from "./config.js";
import type { Experts } from "./experts.js";
import type { GgufTraits } from "./gguf.js";
import type { Mixer } from "./mixers.js";
import type { TensorNames } from "./names.js";
import { type Rope, ropeOf } from "./rope.js";

/** Everything the forward pass must know beyond the weights: plain data, made from `config.json` once. */
export interface Architecture {
  readonly modelType: string;
  readonly hiddenSize: number;
  /** Neurons of the MLP. */
  readonly intermediateSize: number;
  readonly layerCount: number;
  readonly headCount: number;
  readonly kvHeadCount: number;
  readonly headDim: number;
  readonly vocabSize: number;
  readonly maxPositions: number;
  readonly norm: NormTraits;
  /** Which norms a layer has and where they stand. */
  readonly block: BlockTraits;
  readonly qkNorm: QueryKeyNorm | undefined;
  readonly qkvLayout: QkvLayout;
  readonly mlp: MlpKind;
  readonly activation: Activation;
  /** Token embeddings are multiplied by this. */
  readonly embeddingScale: number;
  /** Queries times keys are multiplied by this; default head_dim^−½. */
  readonly attentionScale: number;
  /** What attention and MLP add to the residual stream is multiplied by this (Granite). */
  readonly residualScale: number;
  /** Logits are multiplied by this. */
  readonly logitScale: number;
  /** `cap · tanh(x / cap)` on attention scores and on logits; `undefined` for none. */
  readonly attentionSoftcap: number | undefined;
  readonly logitSoftcap: number | undefined;
  /** Rows before that of position 0 in the table of learned positions; `undefined` for a model without one. */
  readonly learnedPositions: number | undefined;
  /**
   * ALiBi: each head lowers a score by its slope times the distance, all times this; `undefined` for none. source:
   * arXiv:2108.12409
   */
  readonly alibiScale: number | undefined;
  /** A learned score a head that takes its share of every softmax (gpt-oss). */
  readonly attentionSinks: boolean;
  /**
   * The product of queries has a second half, head by head, whose sigmoid multiplies what attention gives (Qwen3-Next).
   */
  readonly gatedQueries: boolean;
  /** Tokens look at those behind them, too: a model that embeds texts and writes none (EmbeddingGemma). */
  readonly bidirectional: boolean;
  /** Every layer is told something of its own about each token, in so many channels (Gemma 3n and 4). */
  readonly perLayerInputs: PerLayerInputs | undefined;
  /** The residual stream has so many copies that layers predict and correct (Gemma 3n); `undefined` for one. */
  readonly altUp:
    | { readonly copies: number; readonly laurelRank: number; readonly scalesCorrected: boolean }
    | undefined;
  /** Whether the output matrix may be missing from the file, the embedding standing in for it. */
  readonly tiedEmbeddings: boolean;
  /** Matrices lie as (inputs, outputs) in the file: GPT-2's Conv1D. */
  readonly transposed: boolean;
  readonly names: TensorNames;
  readonly layers: readonly LayerTraits[];
}

export type Activation = "silu" | "gelu" | "gelu_tanh" | "quick_gelu" | "relu" | "relu2" | "xielu";

/**
 * `separate`: three tensors; `rows`: q, k, v one behind the other; `groups`: for each key head its queries, its key,
 * its value.
 */
export type QkvLayout = "separate" | "rows" | "groups";

/** `gated`: down(f(gate) · up); `gated_rows`: gate and up in one tensor, one behind the other; `plain`: down(f(up)). */
export type MlpKind = "gated" | "gated_rows" | "plain";

export interface NormTraits {
  /** `rms`: x / rms(x); `layer`: (x − mean) / deviation, with a bias where the file has one. */
  readonly kind: "rms" | "layer";
  readonly eps: number;
  /** It multiplies by `weight + offset`. */
  readonly offset: 0 | 1;
  /** False where it has no weight at all (OLMo 1). */
  readonly affine: boolean;
}

/**
 * Norms by their names inside a layer, `undefined` for none:
 *
 * ```
 * residual ── attentionIn ── attention ── attentionOut ──(+)── mlpIn ── MLP ── mlpOut ──(+)──►
 * ```
 */
export interface BlockTraits {
  readonly attentionIn: string | undefined;
  readonly attentionOut: string | undefined;
  /** Where it bears the name of `attentionIn`, the two are one norm. */
  readonly mlpIn: string | undefined;
  readonly mlpOut: string | undefined;
  /** The MLP reads what attention reads, not what attention has added to. */
  readonly parallel: boolean;
}

/**
 * What a layer is told of a token: its row in a table of embeddings of their own, and a product with its embedding. It
 * gates a small detour behind the MLP. source: `Gemma4TextModel.project_per_layer_inputs` of transformers 5.24
 */
export interface PerLayerInputs {
  readonly width: number;
  /** Rows of the table; tokens past them take the first. */
  readonly vocabSize: number;
}

/** Norms of queries and keys. */
export interface QueryKeyNorm {
  /** Paths in a layer. */
  readonly query: string;
  readonly key: string;
  readonly kind: "rms" | "layer";
  /**
   * `head`: each head's channels, one weight (head_dim) for all; `each_head`: the same with weights (heads, head_dim);
   * `tensors`: the same with a tensor `<path>.norms.<head>` each; `width`: all heads' channels together, weight (heads
   * × head_dim).
   */
  readonly over: "head" | "each_head" | "tensors" | "width";
  readonly afterRope: boolean;
}

export interface LayerTraits {
  /** `undefined` for a layer without rotary position embedding. */
  readonly rope: Rope | undefined;
  /** A token sees itself and the `slidingWindow − 1` tokens before it; `undefined` for all before it. */
  readonly slidingWindow: number | undefined;
  /** Sizes that differ from the other layers'. */
  readonly sizes?: Partial<Pick<Architecture, "headDim" | "kvHeadCount" | "intermediateSize">>;
  /** Values are normed without a weight; with `valuesAreKeys` they are the keys before their norm (Gemma 4). */
  readonly unitValues?: boolean;
  readonly valuesAreKeys?: boolean;
  /** Keys and values are those that an earlier layer kept under this name; or are kept under it for later layers. */
  readonly takesKeys?: string;
  readonly keepsKeys?: string;
  /** Of the gate only what stands out by so many deviations is heard, as if gates were normally distributed. */
  readonly gateCutoff?: number;
  /** A mixture of experts in the place of the MLP. */
  readonly experts?: Experts;
  /** What stands in the place of plain softmax attention. */
  readonly mixer?: Mixer;
  /** Tokens look back to the last multiple of this only (Llama 4); longer texts are refused. */
  readonly chunk?: number;
  /** Heads of queries and keys are divided by their size behind the rope (Llama 4). */
  readonly unitHeads?: boolean;
  /** Queries are multiplied by 1 + scale · ln(1 + ⌊(position + 1) / floor⌋) (Llama 4). */
  readonly queryGrowth?: { readonly floor: number; readonly scale: number };
}

/**
 * How one family of architectures differs from plain Llama; adding one is this object and a line in
 * families/registry.ts.
 */
export interface Family {
  readonly modelTypes: readonly string[];
  /** Paper or source of the architecture. */
  readonly reference: string;
  /**
   * What the reference's class takes where config.json leaves a field out, for each model type that differs from
   * Llama's.
   */
  readonly defaults?: Readonly<Record<string, Readonly<Record<string, unknown>>>>;
  /** Names of fields in this family, and what they are called elsewhere. */
  readonly aliases?: Readonly<Record<string, string>>;
  /** Fields that change the function, and the only values that are implemented; any other is refused by name. */
  readonly only?: Readonly<Record<string, readonly unknown[]>>;
  /** Only `partial_rotary_factor` of each head turns; the classes of other families do not read the field. */
  readonly turnsInPart?: boolean;
  /** How llama.cpp knows its model types; one that is left out has no GGUF here. */
  readonly gguf?: Readonly<Record<string, GgufTraits>>;
  /** Why a model type has none. */
  readonly noGguf?: Readonly<Record<string, string>>;
  /** What differs; everything left out is Llama's. */
  traits(config: ModelConfig): Partial<Architecture>;
}

/** The norms of Llama's layer, and of most others. */
export const LLAMA_BLOCK: BlockTraits = {
  attentionIn: "input_layernorm",
  attentionOut: undefined,
  mlpIn: "post_attention_layernorm",
  mlpOut: undefined,
  parallel: false,
};

/** An architecture as one of its layers has it. */
export function sizedFor(architecture: Architecture, layer: number): Architecture {
  const { sizes } = architecture.layers[layer];
  return sizes === undefined ? architecture : { ...architecture, ...sizes };
}

/** Whether a norm stands between a layer's last product and the residual stream. */
export function normsOutputs({ block }: Architecture): boolean {
  return block.attentionOut !== undefined || block.mlpOut !== undefined;
}

/** Every layer alike: one rope, full attention, unless `layer_types` says which layers slide. */
export function likeLlama(
  config: ModelConfig,
  { layerCount, headDim, maxPositions }: Pick<Architecture, "layerCount" | "headDim" | "maxPositions"> = {
    layerCount: config.count("num_hidden_layers"),
    headDim: headDimOf(config),
    maxPositions: config.count("max_position_embeddings"),
  },
): LayerTraits[] {
  const rope = configuredRope(config, headDim, maxPositions);
  const slides = slidingLayers(config, layerCount, () => true);
  const window = config.optionalNumber("sliding_window");
  return slides.map((slide) => ({ rope, slidingWindow: slide ? window : undefined }));
}

/** Layers without rope or window: positions are learned or left to ALiBi. */
export function plainLayers(layerCount: number): LayerTraits[] {
  return Array.from({ length: layerCount }, () => ({ rope: undefined, slidingWindow: undefined }));
}

/** Which layers have a sliding window: as `layer_types` says, else by the family's own rule. */
export function slidingLayers(config: ModelConfig, layerCount: number, rule: (layer: number) => boolean): boolean[] {
  const types = config.raw("layer_types");
  return Array.from({ length: layerCount }, (_, layer) =>
    Array.isArray(types) ? types[layer] === "sliding_attention" : rule(layer),
  );
}

/** The length of a head where the configuration leaves it out. */
export function headDimOf(config: ModelConfig): number {
  return config.count("head_dim", config.count("hidden_size") / config.count("num_attention_heads"));
}

/** The rope that `rope_theta` and `rope_scaling` (or `rope_parameters`) describe. */
export function configuredRope(config: ModelConfig, headDim: number, maxPositions: number, interleaved = false): Rope {
  const parameters = config.record("rope_parameters");
  const scaling = config.record("rope_scaling") ?? parameters;
  const theta = parameters?.rope_theta ?? config.number("rope_theta", 10000);
  const part = parameters?.partial_rotary_factor ?? config.number("partial_rotary_factor", 1);
  return ropeOf({
    theta: Number(theta),
    rotaryDim: Math.trunc(headDim * Number(part) + 1e-9),
    maxPositions,
    originalPositions: config.optionalNumber("original_max_position_embeddings"),
    scaling,
    interleaved,
  });
}

const ACTIVATIONS: Readonly<Record<string, Activation>> = {
  silu: "silu",
  swish: "silu",
  gelu: "gelu",
  gelu_pytorch_tanh: "gelu_tanh",
  gelu_new: "gelu_tanh",
  gelu_fast: "gelu_tanh",
  quick_gelu: "quick_gelu",
  relu: "relu",
  relu2: "relu2",
  xielu: "xielu",
};

export function activationOf(name: string): Activation {
  if (Object.hasOwn(ACTIVATIONS, name)) return ACTIVATIONS[name];
  throw new PhysariumError(
    "DONOR_ARCHITECTURE",
    `config.json: hidden_act "${name}" has no forward pass here; known are ${Object.keys(ACTIVATIONS).join(", ")}`,
    { hidden_act: name },
  );
}
