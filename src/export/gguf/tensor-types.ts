import type { ExportType } from "../weight-band.js";
import { TENSOR_TYPES } from "./types.js";

/** Mixtures by their names in llama.cpp: more bits where a model feels it. */
export const MIXES = { Q4_K_S: "Q4_K", Q4_K_M: "Q4_K", Q5_K_S: "Q5_K", Q5_K_M: "Q5_K" } as const;
export type Mix = keyof typeof MIXES;

/** What an export can be asked for: one type for all matrices, or a mixture. */
export type ExportRecipe = ExportType | Mix;

/** `general.file_type`: which type most matrices have. source: llama.cpp include/llama.h `enum llama_ftype` */
export const FILE_TYPE: Readonly<Record<ExportRecipe, number>> = {
  F32: 0,
  F16: 1,
  Q4_0: 2,
  Q8_0: 7,
  Q5_0: 8,
  Q5_1: 9,
  Q4_K: 14,
  Q4_K_S: 14,
  Q4_K_M: 15,
  Q5_K: 16,
  Q5_K_S: 16,
  Q5_K_M: 17,
  Q6_K: 18,
  IQ4_NL: 25,
  BF16: 32,
};

/** The type that most matrices of a recipe have. */
export function mainType(recipe: ExportRecipe): ExportType {
  return recipe in MIXES ? MIXES[recipe as Mix] : (recipe as ExportType);
}

/** What a mixture goes by, besides names and shapes. */
export interface MixContext {
  /** `general.architecture`. */
  readonly architecture: string;
  readonly layerCount: number;
  readonly headCount: number;
  readonly kvHeadCount: number;
  readonly expertCount: number;
}

export interface ShapedTensor {
  readonly name: string;
  readonly shape: readonly number[];
}

export interface ChosenType {
  readonly type: ExportType;
  /** Why the tensor has another type than the recipe gives it; undefined where it has that. */
  readonly fallback: string | undefined;
}

/**
 * Tensors that engines want in F32 whatever the file's type is: what is no matrix, and small matrices that decide much
 * (routers, convolutions, learned positions). source: llama.cpp src/llama-quant.cpp `tensor_allows_quantization`,
 * convert_hf_to_gguf.py `prepare_tensors`
 */
export function staysFloat({ name, shape }: ShapedTensor): boolean {
  return (
    shape.length < 2 ||
    !name.endsWith("weight") ||
    /_norm\.weight$|ffn_gate_inp|^position_embd|ssm_conv1d|shortconv\.conv|altup|laurel|per_layer_model_proj/.test(name)
  );
}

/** The type of each tensor of a file, in the order given. */
export function chooseTypes(
  recipe: ExportRecipe,
  tensors: readonly ShapedTensor[],
  context: MixContext,
): ReadonlyMap<string, ChosenType> {
  const chosen = new Map<string, ChosenType>();
  const mixture = recipe in MIXES ? new MixRules(recipe as Mix, context, tensors) : undefined;
  // Mixtures count as they go, layer by layer and in the order of names.
  for (const tensor of [...tensors].sort(byLayer)) {
    if (staysFloat(tensor)) {
      chosen.set(tensor.name, { type: "F32", fallback: undefined });
      continue;
    }
    const wanted = mixture?.typeOf(tensor) ?? mainType(recipe);
    chosen.set(tensor.name, fitting(wanted, tensor.shape[tensor.shape.length - 1]));
  }
  return chosen;
}

/** What takes the place of a type whose blocks do not divide a row. source: `tensor_type_fallback`, llama-quant.cpp */
const FALLBACKS: Readonly<Partial<Record<ExportType, ExportType>>> = { Q4_K: "Q5_0", Q5_K: "Q5_1", Q6_K: "Q8_0" };

function fitting(wanted: ExportType, rowLength: number): ChosenType {
  const fits = (type: ExportType): boolean => rowLength % TENSOR_TYPES[type].blockLength === 0;
  if (fits(wanted)) return { type: wanted, fallback: undefined };
  const second = FALLBACKS[wanted];
  const { blockLength } = TENSOR_TYPES[wanted];
  return {
    type: second !== undefined && fits(second) ? second : "F16",
    fallback: `rows of ${rowLength} weights are no whole number of ${wanted} blocks of ${blockLength}`,
  };
}

/**
 * Which matrices of a mixture get more bits: attention's values and the MLP's second matrix in some layers, the output
 * (or the embedding it is tied to), the fused q, k, v. source: llama-quant.cpp `llama_tensor_get_type_impl`
 */
class MixRules {
  private valuesSeen = 0;
  private downsSeen = 0;
  private readonly valueCount: number;
  private readonly isTied: boolean;
  private readonly isMedium: boolean;

  constructor(
    private readonly mix: Mix,
    private readonly context: MixContext,
    tensors: readonly ShapedTensor[],
  ) {
    this.valueCount = tensors.filter(({ name }) => VALUES.test(name)).length;
    this.isTied = !tensors.some(({ name }) => name === "output.weight");
    this.isMedium = mix.endsWith("_M");
  }

  typeOf({ name, shape }: ShapedTensor): ExportType {
    const { context, isMedium } = this;
    const base = MIXES[this.mix];
    const isFalcon = context.architecture === "falcon";
    if (name === "output.weight" || (this.isTied && name === "token_embd.weight")) {
      const isWhole = shape[shape.length - 1] % TENSOR_TYPES[base].blockLength === 0;
      return isFalcon || !isWhole ? "Q8_0" : "Q6_K";
    }
    if (VALUES.test(name)) return this.typeOfValues();
    if (name.includes("attn_k.weight")) return context.expertCount === 8 ? "Q8_0" : base;
    if (name.includes("ffn_down")) return this.typeOfDown(name);
    if (name.includes("attn_output.weight")) {
      return !isFalcon && context.expertCount === 8 && base === "Q4_K" ? "Q5_K" : base;
    }
    if (isMedium && name.includes("attn_qkv.weight")) return base === "Q4_K" ? "Q5_K" : "Q6_K";
    return base;
  }

  private typeOfValues(): ExportType {
    const { context } = this;
    const seen = this.valuesSeen++;
    let type: ExportType = MIXES[this.mix];
    if (this.isMedium && deservesMore(seen, this.valueCount)) type = "Q6_K";
    else if (this.mix === "Q4_K_S" && seen < 4) type = "Q5_K";
    // Eight queries share a key there: the matrix is small.
    const is70B =
      context.layerCount === 80 &&
      (context.architecture === "qwen2" ||
        (context.architecture === "llama" && context.headCount !== context.kvHeadCount));
    if (is70B && type === "Q4_K") type = "Q5_K";
    return context.expertCount === 8 ? "Q8_0" : type;
  }

  private typeOfDown(name: string): ExportType {
    const { mix } = this;
    const { architecture, layerCount, expertCount } = this.context;
    const base = MIXES[mix];
    const counted = this.downsSeen++;
    const layer = expertCount > 1 ? layerOf(name) : counted;
    if (mix === "Q4_K_M" && architecture === "falcon") {
      if (layer < Math.floor(layerCount / 16)) return "Q6_K";
      return deservesMore(layer, layerCount) ? "Q5_K" : base;
    }
    if (this.isMedium) return deservesMore(layer, layerCount) ? "Q6_K" : base;
    return mix === "Q4_K_S" && architecture !== "falcon" && layer < Math.floor(layerCount / 8) ? "Q5_K" : base;
  }
}

/** Fused q, k, v and the latents' second matrix count as values. */
const VALUES = /attn_v\.weight|attn_qkv\.weight|attn_kv_b\.weight/;

/** The first and the last eighth of the layers, and every third between. source: `use_more_bits` in llama-quant.cpp */
function deservesMore(layer: number, layerCount: number): boolean {
  const eighth = Math.floor(layerCount / 8);
  return layer < eighth || layer >= Math.floor((7 * layerCount) / 8) || (layer - eighth) % 3 === 2;
}

function layerOf(name: string): number {
  return Number(/^blk\.(\d+)\./.exec(name)?.[1] ?? -1);
}

function byLayer(a: ShapedTensor, b: ShapedTensor): number {
  return layerOf(a.name) - layerOf(b.name) || (a.name < b.name ? -1 : a.name > b.name ? 1 : 0);
}
