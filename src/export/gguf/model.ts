import { PhysariumError } from "../../errors.js";
import { ModelConfig } from "../../model/config.js";
import { architectureOf, familyOf } from "../../model/families/registry.js";
import type { GgufTraits } from "../../model/gguf.js";
import { layerBase } from "../../model/names.js";
import { MODEL_TYPES, type ModelType, parseModelConfig } from "../model-config.js";
import { parseRopeScaling, type RopeScaling } from "../rope-scaling.js";
import { familyLinks } from "./family-links.js";
import { familyMetadata, refuseForeign, ropeBaseOf } from "./family-metadata.js";
import { classicLinks, architectureOf as classicName, describeModel } from "./layout.js";
import type { Link } from "./links.js";
import { isFoundAgain, type RopeFactors, ropeFactorsOf } from "./rope-factors.js";
import type { MixContext } from "./tensor-types.js";
import { wholeLayersFactors } from "./typed-layers.js";
import type { GgufValue } from "./types.js";

/** A model as a GGUF file has it: everything but the tokenizer and the numbers. */
export interface GgufModel {
  readonly modelType: string;
  /** `general.architecture`. */
  readonly architecture: string;
  readonly vocabSize: number;
  readonly layerCount: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly headCount: number;
  readonly kvHeadCount: number;
  readonly headLength: number;
  readonly contextLength: number;
  readonly tiedEmbeddings: boolean;
  /** Its engine takes the embedding for the output matrix always. */
  readonly mustTie: boolean;
  readonly eosTokenId: number | undefined;
  readonly links: readonly Link[];
  readonly metadata: ReadonlyMap<string, GgufValue>;
  /** Factors of the rope's frequencies, each list a tensor of its own. */
  readonly ropeFactors: readonly RopeFactors[];
  /** Numbers that tensors of the checkpoint hold and the file's metadata lists, a layer's each. */
  readonly layerNumbers: readonly LayerNumbers[];
  readonly mix: MixContext;
  /** Whether the file carries config.json: metadata alone does not say everything of the family. */
  readonly embedsConfig: boolean;
  readonly warnings: readonly string[];
  /** Names that the checkpoint's tensors have: of the embedding and of the output matrix. */
  readonly embeddingName: string;
  readonly headName: string;
}

/** A list of the metadata and the tensors of the checkpoint that its numbers come from, layer by layer. */
export interface LayerNumbers {
  readonly key: string;
  readonly names: readonly string[];
  readonly shape: readonly number[];
  /** What a layer without the tensor takes; undefined: it must be there. */
  readonly usual: number | undefined;
}

/**
 * The model that config.json describes. `names` are the checkpoint's tensors, where there are any: they tell what
 * stands before the decoder's (`language_model.`).
 * Throws `DONOR_CONFIG`, `DONOR_ARCHITECTURE` for what llama.cpp has no word for.
 */
export function ggufModelOf(configText: string, where: string, names: readonly string[] = []): GgufModel {
  const whole = ModelConfig.parse(configText, where);
  const modelType = whole.decoder.raw("model_type");
  if (MODEL_TYPES.includes(modelType as ModelType)) return classicModel(whole, where, names);
  return familyModel(whole, where, names);
}

/** Families whose configuration has a reader here: Llama and its nearest kin. */
function classicModel(whole: ModelConfig, where: string, names: readonly string[]): GgufModel {
  const config = parseModelConfig(JSON.stringify(whole.decoder.toJson()), where);
  const prefix = names.length === 0 ? "model." : prefixOf(names, "embed_tokens.weight");
  // Phi-3's files have a key for it, which llama.cpp reads and does not follow.
  const slidesThere = ["gemma2", "gemma3_text"].includes(config.modelType);
  const saysWindow = slidesThere || config.modelType === "phi3";
  const architecture = classicName(config.modelType);
  const warnings =
    config.slidingWindow === undefined || slidesThere
      ? []
      : [
          `attention windows of ${config.slidingWindow} tokens are not part of llama.cpp's ${architecture}: longer ` +
            "contexts see more than the donor does",
        ];
  const { ropeScaling } = config;
  if (ropeScaling.kind === "longrope") {
    warnings.push(
      "llama.cpp turns with the long factors wherever its context holds more than " +
        `${ropeScaling.originalContextLength} tokens, the model's own class where the text does`,
    );
  }
  const ropeFactors = ropeFactorsOf(ropeScaling, config.ropeLength, config.ropeTheta);
  const isFound = isFoundAgain(ropeFactors, config.ropeLength, config.ropeTheta);
  const headName = headOf(names, prefix.replace(/model\.$/, ""), "lm_head");
  return {
    ...config,
    architecture,
    links: classicLinks(config, prefix, headName),
    metadata: describeModel(config),
    ropeFactors,
    layerNumbers: [],
    mix: { ...config, architecture, expertCount: 0 },
    // What the metadata cannot say is lost otherwise: windows that the engine has no key for, odd factors of a rope.
    embedsConfig: (config.slidingWindow !== undefined && !saysWindow) || !isFound,
    mustTie: config.modelType === "gemma" || config.modelType === "gemma2",
    warnings,
    embeddingName: `${prefix}embed_tokens.weight`,
    headName: `${headName}.weight`,
  };
}

/** Families that say in their own file how llama.cpp knows them. */
function familyModel(whole: ModelConfig, where: string, names: readonly string[]): GgufModel {
  const { family, config } = familyOf(whole);
  const architecture = architectureOf(whole);
  const { modelType, layers } = architecture;
  const traits = family.gguf?.[modelType];
  if (traits === undefined) {
    const why = family.noGguf?.[modelType] ?? "docs/export.md lists what can";
    throw new PhysariumError(
      "DONOR_ARCHITECTURE",
      `${where}: model_type ${JSON.stringify(modelType)} cannot be exported to GGUF; ${why}`,
      { modelType },
    );
  }
  refuseForeign(architecture, traits);
  const scaling = scalingOf(config, traits, where);
  const embedding = `${architecture.names.embedding}.weight`;
  const usual = DECODER_PREFIX[modelType] ?? "model.";
  const prefix = names.length === 0 ? usual : prefixOf(names, embedding);
  const wrapper = prefix.endsWith(usual) ? prefix.slice(0, -usual.length) : prefix;
  const headName = headOf(names, wrapper, architecture.names.head);
  const turned = layers.find(({ rope }) => rope !== undefined)?.rope;
  const window = layers.find(({ slidingWindow }) => slidingWindow !== undefined)?.slidingWindow;
  const warnings: string[] = [];
  if (
    window !== undefined &&
    traits.slidingPeriod === undefined &&
    traits.tellsTypes !== true &&
    window < architecture.maxPositions
  ) {
    warnings.push(
      `attention windows of ${window} tokens are not part of llama.cpp's ${traits.architecture}: longer contexts see ` +
        "more than the donor does",
    );
  }
  if (scaling.kind === "yarn" && traits.roundsYarn === true) {
    warnings.push(
      "llama.cpp rounds the borders of yarn's ramp, the model's own class does not: frequencies differ a little",
    );
  }
  const eos = config.raw("eos_token_id");
  const first = Array.isArray(eos) ? eos[0] : eos;
  return {
    modelType,
    architecture: traits.architecture,
    vocabSize: architecture.vocabSize,
    layerCount: architecture.layerCount,
    hiddenSize: architecture.hiddenSize,
    intermediateSize: architecture.intermediateSize,
    headCount: architecture.headCount,
    kvHeadCount: architecture.kvHeadCount,
    headLength: architecture.headDim,
    contextLength: architecture.maxPositions,
    tiedEmbeddings: architecture.tiedEmbeddings,
    eosTokenId: typeof first === "number" ? first : undefined,
    links: familyLinks(architecture, traits, prefix, headName),
    metadata: familyMetadata(architecture, config, traits, scaling),
    ropeFactors: traits.tellsTypes
      ? [wholeLayersFactors(architecture, config)]
      : turned === undefined
        ? []
        : ropeFactorsOf(scaling, 2 * turned.inverseFrequencies.length, ropeBaseOf(config)),
    layerNumbers: Object.entries(traits.layerNumbers ?? {}).map(([key, { path, shape, usual }]) => ({
      key,
      names: layers.map((_, layer) => `${layerBase(architecture.names, prefix, layer)}${path}`),
      shape,
      usual,
    })),
    mix: {
      architecture: traits.architecture,
      layerCount: architecture.layerCount,
      headCount: architecture.headCount,
      kvHeadCount: architecture.kvHeadCount,
      expertCount: layers.find(({ experts }) => experts !== undefined)?.experts?.count ?? 0,
    },
    embedsConfig: true,
    mustTie: traits.tiesHead === true,
    warnings,
    embeddingName: `${prefix}${embedding}`,
    headName: `${headName}.weight`,
  };
}

function scalingOf(config: ModelConfig, traits: GgufTraits, where: string): RopeScaling {
  const raw = config.record("rope_scaling") ?? config.record("rope_parameters") ?? null;
  const { roundsYarn, tellsYarn } = traits;
  return parseRopeScaling(raw, where, {
    contextLength: config.count("max_position_embeddings"),
    roundsYarn,
    tellsYarn,
  });
}

/** What a class of transformers puts before its decoder's tensors, where it is not `model.`. */
const DECODER_PREFIX: Readonly<Record<string, string>> = {
  gpt2: "transformer.",
  gpt_bigcode: "transformer.",
  bloom: "transformer.",
  falcon: "transformer.",
  gpt_neox: "gpt_neox.",
};

/** What stands before a tensor whose name ends so: nothing in most, `language_model.` in a wrapper. */
function prefixOf(names: readonly string[], last: string): string {
  const found = names
    .filter((name) => name === last || name.endsWith(`.${last}`))
    .sort((a, b) => a.length - b.length)[0];
  return found === undefined ? "" : found.slice(0, -last.length);
}

/** The output matrix stands before or behind a wrapper's prefix. */
function headOf(names: readonly string[], prefix: string, head: string): string {
  return names.includes(`${prefix}${head}.weight`) || !names.includes(`${head}.weight`) ? `${prefix}${head}` : head;
}
