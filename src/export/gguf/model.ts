import { PhysariumError } from "../../errors.js";
import { ModelConfig } from "../../model/config.js";
import { architectureOf, familyOf } from "../../model/families/registry.js";
import { MODEL_TYPES, type ModelType, parseModelConfig, parseRopeScaling, type RopeScaling } from "../model-config.js";
import { familyLinks } from "./family-links.js";
import { familyMetadata, refuseForeign, ropeBaseOf } from "./family-metadata.js";
import { classicLinks, architectureOf as classicName, describeModel, llama3RopeFactors } from "./layout.js";
import type { Link } from "./links.js";
import type { MixContext } from "./tensor-types.js";
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
  /** Factors of the rope's frequencies, a tensor of their own; `undefined` for none. */
  readonly ropeFactors: Float32Array | undefined;
  readonly mix: MixContext;
  /** Whether the file carries config.json: metadata alone does not say everything of the family. */
  readonly embedsConfig: boolean;
  readonly warnings: readonly string[];
  /** Names that the checkpoint's tensors have: of the embedding and of the output matrix. */
  readonly embeddingName: string;
  readonly headName: string;
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
  const hasOwnWindow = ["phi3", "gemma2", "gemma3_text"].includes(config.modelType);
  const architecture = classicName(config.modelType);
  const warnings =
    config.slidingWindow === undefined || hasOwnWindow
      ? []
      : [
          `attention windows of ${config.slidingWindow} tokens are not part of llama.cpp's ${architecture}: longer ` +
            "contexts see more than the donor does",
        ];
  const { ropeScaling } = config;
  const headName = headOf(names, prefix.replace(/model\.$/, ""), "lm_head");
  return {
    ...config,
    architecture,
    links: classicLinks(config, prefix, headName),
    metadata: describeModel(config),
    ropeFactors:
      ropeScaling.kind === "llama3" ? llama3RopeFactors(ropeScaling, config.ropeLength, config.ropeTheta) : undefined,
    mix: { ...config, architecture, expertCount: 0 },
    embedsConfig: false,
    mustTie: config.modelType.startsWith("gemma"),
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
    throw new PhysariumError(
      "DONOR_ARCHITECTURE",
      `${where}: model_type ${JSON.stringify(modelType)} cannot be exported to GGUF; docs/export.md lists what can`,
      { modelType },
    );
  }
  refuseForeign(architecture, traits);
  const scaling = scalingOf(config, architecture.maxPositions, where, traits.roundsYarn === true);
  const embedding = `${architecture.names.embedding}.weight`;
  const usual = DECODER_PREFIX[modelType] ?? "model.";
  const prefix = names.length === 0 ? usual : prefixOf(names, embedding);
  const wrapper = prefix.endsWith(usual) ? prefix.slice(0, -usual.length) : prefix;
  const headName = headOf(names, wrapper, architecture.names.head);
  const turned = layers.find(({ rope }) => rope !== undefined)?.rope;
  const window = layers.find(({ slidingWindow }) => slidingWindow !== undefined)?.slidingWindow;
  const warnings: string[] = [];
  if (window !== undefined && traits.slidingPeriod === undefined && window < architecture.maxPositions) {
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
    ropeFactors:
      scaling.kind === "llama3" && turned !== undefined
        ? llama3RopeFactors(scaling, 2 * turned.inverseFrequencies.length, ropeBaseOf(config))
        : undefined,
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

function scalingOf(config: ModelConfig, contextLength: number, where: string, rounds: boolean): RopeScaling {
  const raw = config.record("rope_scaling") ?? config.record("rope_parameters");
  return parseRopeScaling(raw ?? null, contextLength, where, rounds);
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
