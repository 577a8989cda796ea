import type { Activation } from "./architecture.js";

/** A hyperparameter in both worlds: field of config.json, key behind the architecture's prefix, type in the file. */
export type GgufField = readonly [field: string, key: string, type: "u32" | "f32" | "bool"];

/** A tensor of one number in each layer: its path there, its shape, and what is taken where the file has none. */
export interface LayerNumber {
  readonly path: string;
  readonly shape: readonly number[];
  readonly usual?: number;
}

/** How llama.cpp knows a model type: what cannot be told from the architecture as the forward pass has it. */
export interface GgufTraits {
  /** `general.architecture`. */
  readonly architecture: string;
  /** Channels 2i and 2i + 1 turn together there; a checkpoint that turns halves gets its rows reordered. */
  readonly turnsPairs?: boolean;
  /** What its graph has built in; another activation is refused. */
  readonly activations: readonly Activation[];
  /** The field of config.json that holds the epsilon of the norms; default rms_norm_eps. */
  readonly epsilon?: string;
  /** Paths inside a layer, or behind the prefix, whose names there differ from the common ones. */
  readonly names?: Readonly<Record<string, string>>;
  /** Hyperparameters beyond the common ones, both ways. */
  readonly fields?: readonly GgufField[];
  /** Fields of config.json that say what the file's numbers already hold. */
  readonly config?: Readonly<Record<string, unknown>>;
  /** Keys that every file of the architecture has, with their value. */
  readonly constants?: Readonly<Record<string, number | boolean>>;
  /** Whether its graph has sliding windows; which layers slide is built in there, as a period (the last is whole). */
  readonly slidingPeriod?: number;
  /** Only models of so many layers slide there. */
  readonly slidingLayerCount?: number;
  /** Its graph takes the embedding for the output matrix, whatever the file holds. */
  readonly tiesHead?: boolean;
  /** Its graph rounds the borders of yarn's ramp; the checkpoint's class does not. */
  readonly roundsYarn?: boolean;
  /** Tokens look back to the last multiple of so many, and queries grow with each: built in (Llama 4). */
  readonly chunk?: number;
  /** Numbers that tensors of a layer hold, by their keys: one list of all layers each. */
  readonly layerNumbers?: Readonly<Record<string, LayerNumber>>;
  /** Channels turn with one of three positions there (time, height, width), which are the same in a text. */
  readonly hasSections?: boolean;
  /** Layers of two types have sizes and ropes of their own, which the file tells by layer (Gemma 4). */
  readonly tellsTypes?: boolean;
  /** It knows what Ministral 3 says of its yarn beyond the usual. */
  readonly tellsYarn?: boolean;
  /** It divides the weights of the chosen experts by their sum; a checkpoint that does otherwise is refused. */
  readonly normalisesExperts?: boolean;
}

/** GELU by its tanh form, which is what llama.cpp computes for both. */
export const ANY_GELU: readonly Activation[] = ["gelu", "gelu_tanh"];
export const SILU: readonly Activation[] = ["silu"];

/** Granite's multipliers, dense and with experts. */
export const GRANITE_GGUF: Pick<GgufTraits, "activations" | "turnsPairs"> & { readonly fields: readonly GgufField[] } =
  {
    activations: SILU,
    turnsPairs: true,
    fields: [
      ["attention_multiplier", "attention.scale", "f32"],
      ["embedding_multiplier", "embedding_scale", "f32"],
      ["residual_multiplier", "residual_scale", "f32"],
      ["logits_scaling", "logit_scale", "f32"],
    ],
  };
