import type { TensorInfo } from "../safetensors/header.js";

/** What `config.json` says that decides how tensors are read; everything may be missing. */
export interface ConfigFacts {
  readonly modelType: string | undefined;
  /** Decoder layers; absent in encoder-decoders, whose two stacks one number does not describe. */
  readonly layerCount: number | undefined;
  readonly hiddenSize: number | undefined;
  /** The last so many layers take keys and values of earlier ones (Gemma 3n and 4). */
  readonly sharedKeyLayers?: number | undefined;
  /** `quantization_config.quant_method`, where there is one. */
  readonly quantMethod: string | undefined;
}

export const NO_FACTS: ConfigFacts = {
  modelType: undefined,
  layerCount: undefined,
  hiddenSize: undefined,
  quantMethod: undefined,
};

/**
 * A tensor's place in a decoder: `prefix` before the numbered layer, `path` inside it, numbers of experts and `.weight`
 * included.
 */
export interface LayerPlace {
  readonly prefix: string;
  readonly layer: number;
  readonly path: string;
}

/**
 * The numbered stacks that decoders on the hub are made of: `layers.N` (most), `h.N` (GPT-2, Falcon, BLOOM), `blocks.N`
 * (MPT, OLMo 1, RWKV), `block.N` (T5). Linear in the name's length: names are foreign data.
 */
const LAYER = /(?:^|\.)(?:layers|h|blocks|block)\.(\d{1,9})\./;

/** Where a name says it belongs, or undefined outside every numbered layer. */
export function placeInLayer(name: string): LayerPlace | undefined {
  const match = LAYER.exec(name);
  if (match === null) return undefined;
  return {
    prefix: name.slice(0, match.index),
    layer: Number(match[1]),
    path: name.slice(match.index + match[0].length),
  };
}

/** Towers that read or make pictures or sound: their layers feed the decoder, or follow it, but are no part of it. */
const TOWER =
  /vision|visual|image|audio|speech|(?:^|[._])(?:vit|img|vpm|apm|tts|talker|clip|siglip|whisper|conformer|code2wav|token2wav|depth_decoder|resampler|projector|connector)(?:[._]|$)/i;

/** Heads that guess tokens ahead for speculative decoding. */
const DRAFT = /(?:^|[._])(?:mtp|eagle\d*|medusa|hydra|nextn|draft|speculator)(?:[._]|$)/i;

/** What a tensor outside of the decoder belongs to, by its name; undefined where no name of such a part is in it. */
export function partBeside(name: string): "a tower of vision or audio" | "a draft head" | undefined {
  // Inside a layer of the decoder a name that sounds like a tower is the layer's (experts for pictures).
  const before = placeInLayer(name)?.prefix ?? name;
  if (TOWER.test(before)) return "a tower of vision or audio";
  return DRAFT.test(before) ? "a draft head" : undefined;
}

/**
 * What only a draft layer holds: the joint of the last hidden state and the next token (DeepSeek-V3, GLM-4.5, MiMo).
 */
const DRAFT_PART = /^(?:eh_proj|enorm|hnorm|shared_head|mtp_\w+)(?:\.|$)/;

/**
 * Families whose weights of some modules are stored (inputs, outputs); everything else is (outputs, inputs). source:
 * transformers 5.24, `modeling_*.py`
 */
const STORED_BY_INPUT: Readonly<Record<string, RegExp>> = {
  gpt2: /^(?:attn|crossattention|mlp)\.(?:c_attn|q_attn|c_proj|c_fc)$/,
  "openai-gpt": /^(?:attn|mlp)\.(?:c_attn|c_proj|c_fc)$/,
  imagegpt: /^(?:attn|mlp)\.(?:c_attn|c_proj|c_fc)$/,
  decision_transformer: /^(?:attn|mlp)\.(?:c_attn|c_proj|c_fc)$/,
  gpt_oss: /\.experts\.(?:gate_up_proj|down_proj)$/,
  llama4: /\.experts\.(?:gate_up_proj|down_proj)$/,
  llama4_text: /\.experts\.(?:gate_up_proj|down_proj)$/,
  dbrx: /\.experts\.mlp\.w2$/,
};

/**
 * Stacks of expert matrices that the configuration's family does not decide: the side of the hidden state shows how
 * they lie.
 */
const EXPERT_STACK_IN = /\.experts\.(?:gate_up_proj|gate_proj|up_proj)$/;
const EXPERT_STACK_OUT = /\.experts\.down_proj$/;

/**
 * What the names and shapes of a whole model say that one tensor alone does not: which layers are draft heads, which
 * `gate` chooses experts, which matrices are stored (inputs, outputs).
 */
export class DecoderStructure {
  private readonly draftLayers = new Set<string>();
  private readonly modulesWithExperts = new Set<string>();
  private readonly biases = new Map<string, number>();
  private storedByInput = { yes: 0, no: 0 };

  constructor(
    tensors: Iterable<Pick<TensorInfo, "name" | "shape">>,
    readonly facts: ConfigFacts = NO_FACTS,
  ) {
    const matrices: { name: string; shape: readonly number[] }[] = [];
    for (const { name, shape } of tensors) {
      const place = placeInLayer(name);
      if (place === undefined) continue;
      if (DRAFT_PART.test(place.path)) this.draftLayers.add(`${place.prefix}\0${place.layer}`);
      const experts = /(?:^|\.)[^.]*expert/.exec(place.path);
      if (experts !== null) this.modulesWithExperts.add(place.path.slice(0, experts.index));
      if (shape.length === 1 && name.endsWith(".bias")) this.biases.set(name.slice(0, -".bias".length), shape[0]);
      if (shape.length === 2 && name.endsWith(".weight"))
        matrices.push({ name: name.slice(0, -".weight".length), shape });
    }
    for (const { name, shape } of matrices) {
      const outputs = this.biases.get(name);
      if (outputs === undefined || shape[0] === shape[1]) continue;
      if (shape[0] === outputs) this.storedByInput.no++;
      else if (shape[1] === outputs) this.storedByInput.yes++;
    }
  }

  /** Why a layer is none of the decoder's, or undefined where it is one. */
  notOfDecoder({ prefix, layer, path }: LayerPlace): string | undefined {
    if (TOWER.test(prefix)) return "in a tower of vision or audio";
    if (DRAFT.test(prefix) || DRAFT.test(path.split(".", 1)[0])) return "in a draft head";
    if (this.draftLayers.has(`${prefix}\0${layer}`))
      return "in a draft head: it joins the last hidden state with the next token";
    const { layerCount } = this.facts;
    if (layerCount !== undefined && layer >= layerCount)
      return `in a layer after the last: config.json has ${layerCount} layers, so this is a draft head or unused`;
    return undefined;
  }

  /** Does a layer take the keys and values of an earlier one, whatever matrices of its own the file has? */
  takesOthersKeys(layer: number): boolean {
    const { layerCount, sharedKeyLayers } = this.facts;
    return layerCount !== undefined && sharedKeyLayers !== undefined && layer >= layerCount - sharedKeyLayers;
  }

  /** Does the module of a `gate` hold experts for it to choose? Where nothing is known of the model, it is taken to. */
  choosesExperts(module: string): boolean {
    return this === UNKNOWN_STRUCTURE || /moe|expert/i.test(module) || this.modulesWithExperts.has(module);
  }

  /**
   * Is a matrix stored as (inputs, outputs), which a product would write (outputs, inputs)? `path` without `.weight`
   * and expert numbers.
   */
  isStoredByInput({ name, shape }: Pick<TensorInfo, "name" | "shape">, path: string): boolean {
    const module = name.replace(/\.weight$/, "");
    const outputs = this.biases.get(module);
    if (shape.length === 2 && outputs !== undefined) {
      if (shape[0] !== shape[1] && shape.includes(outputs)) return shape[1] === outputs;
      // A square matrix is stored as its neighbours with biases are.
      if (this.storedByInput.yes !== this.storedByInput.no) return this.storedByInput.yes > this.storedByInput.no;
    }
    const { modelType, hiddenSize } = this.facts;
    if (modelType !== undefined && STORED_BY_INPUT[modelType]?.test(path)) return true;
    if (shape.length !== 3 || name.endsWith(".weight") || hiddenSize === undefined || shape[1] === shape[2])
      return false;
    return (
      (EXPERT_STACK_IN.test(path) && shape[1] === hiddenSize) ||
      (EXPERT_STACK_OUT.test(path) && shape[2] === hiddenSize)
    );
  }
}

/** For a tensor looked at alone. */
export const UNKNOWN_STRUCTURE = new DecoderStructure([]);

/**
 * The facts in a `config.json` that may be of any family, nested or not, or no JSON at all: nothing is refused here.
 */
export function configFacts(config: unknown): ConfigFacts {
  const top = asObject(config);
  const text = asObject(
    top.text_config ?? top.llm_config ?? top.language_config ?? asObject(top.thinker_config).text_config,
  );
  const find = (...names: string[]) => {
    for (const from of [text, top]) for (const name of names) if (from[name] !== undefined) return from[name];
    return undefined;
  };
  const modelType = find("model_type");
  const quantMethod = asObject(find("quantization_config")).quant_method;
  return {
    modelType: typeof modelType === "string" ? modelType : undefined,
    layerCount:
      top.is_encoder_decoder === true
        ? undefined
        : positive(find("num_hidden_layers", "n_layer", "n_layers", "num_layers")),
    hiddenSize: positive(find("hidden_size", "n_embd", "d_model")),
    sharedKeyLayers: positive(find("num_kv_shared_layers")),
    quantMethod: typeof quantMethod === "string" ? quantMethod : undefined,
  };
}

function asObject(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : {};
}

function positive(value: unknown): number | undefined {
  return typeof value === "number" && Number.isSafeInteger(value) && value > 0 ? value : undefined;
}
