import { PhysariumError } from "../../errors.js";
import { type Architecture, sizedFor } from "../../model/architecture.js";
import type { ModelConfig } from "../../model/config.js";
import { GEMMA4_ROPES } from "../../model/families/gemma4.js";
import type { RopeFactors } from "./rope-factors.js";
import type { GgufValue, ScalarType } from "./types.js";

/** What llama.cpp divides the angle of a pair by that stands still. source: conversion/gemma.py `Gemma4Model` */
const STILL = 1e30;

/**
 * The hyperparameters of a decoder whose layers see everything or slide, each type with heads and a rope of its own:
 * those of the whole layers under the usual keys, those of the sliding ones beside them. Throws `DONOR_ARCHITECTURE`.
 * source: llama.cpp conversion/gemma.py `Gemma4Model`
 */
export function typedLayers(architecture: Architecture, config: ModelConfig): Map<string, GgufValue> {
  const { layers, perLayerInputs, vocabSize, logitSoftcap } = architecture;
  const slides = layers.map(({ slidingWindow }) => slidingWindow !== undefined);
  const [whole, sliding] = [slides.indexOf(false), slides.indexOf(true)];
  if (whole === -1 || sliding === -1) throw foreign(config, "all layers of one type");
  if (perLayerInputs !== undefined && perLayerInputs.vocabSize !== vocabSize) {
    throw foreign(config, `${perLayerInputs.vocabSize} tokens with inputs of their own out of ${vocabSize}`);
  }
  const shared = layers.findIndex(({ takesKeys }) => takesKeys !== undefined);
  // Its layers take keys of the two before the first that does: a sliding one, then a whole one.
  if (shared !== -1 && !(slides[shared - 2] === true && slides[shared - 1] === false)) {
    throw foreign(config, `keys shared from layer ${shared} on`);
  }
  const sized = layers.map((_, layer) => sizedFor(architecture, layer));
  const values = new Map<string, GgufValue>();
  const set = (key: string, type: ScalarType, value: number): void => void values.set(key, { type, value });
  const list = (key: string, all: readonly number[]): void =>
    void (all.every((value) => value === all[0])
      ? set(key, "u32", all[0])
      : values.set(key, { type: "array", of: "u32", values: [...all] }));
  const turnsOf = (layer: number): number => 2 * (layers[layer].rope?.inverseFrequencies.length ?? 0);
  const heads = { full: sized[whole].headDim, sliding: sized[sliding].headDim };
  if (turnsOf(whole) !== heads.full) throw foreign(config, "a rope of part of the whole layers' heads");
  for (const part of ["key", "value"]) {
    set(`attention.${part}_length`, "u32", heads.full);
    set(`attention.${part}_length_swa`, "u32", heads.sliding);
  }
  set("rope.dimension_count", "u32", turnsOf(whole));
  set("rope.dimension_count_swa", "u32", turnsOf(sliding));
  set("rope.freq_base", "f32", thetaOf(config, "full_attention"));
  set("rope.freq_base_swa", "f32", thetaOf(config, "sliding_attention"));
  set("attention.sliding_window", "u32", layers[sliding].slidingWindow ?? 0);
  values.set("attention.sliding_window_pattern", { type: "array", of: "bool", values: slides });
  set("attention.shared_kv_layers", "u32", layers.filter(({ takesKeys }) => takesKeys !== undefined).length);
  set("embedding_length_per_layer_input", "u32", perLayerInputs?.width ?? 0);
  list(
    "attention.head_count_kv",
    sized.map(({ kvHeadCount }) => kvHeadCount),
  );
  list(
    "feed_forward_length",
    sized.map(({ intermediateSize }) => intermediateSize),
  );
  // Left out it would be 30.
  set("final_logit_softcapping", "f32", logitSoftcap ?? 0);
  return values;
}

/** Factors of the whole layers' rope, of which some pairs stand still. */
export function wholeLayersFactors({ layers }: Architecture, config: ModelConfig): RopeFactors {
  const rope = layers.find(({ slidingWindow }) => slidingWindow === undefined)?.rope;
  const turns = rope?.inverseFrequencies ?? new Float64Array(0);
  const theta = thetaOf(config, "full_attention");
  const values = Float32Array.from(turns, (turn, pair) =>
    turn === 0 ? STILL : theta ** (-pair / turns.length) / turn,
  );
  return { name: "rope_freqs.weight", values };
}

function thetaOf(config: ModelConfig, type: keyof typeof GEMMA4_ROPES): number {
  const own = config.record("rope_parameters")?.[type] as { rope_theta?: unknown } | undefined;
  return typeof own?.rope_theta === "number" ? own.rope_theta : GEMMA4_ROPES[type].rope_theta;
}

function foreign(config: ModelConfig, what: string): PhysariumError {
  const modelType = config.raw("model_type");
  return new PhysariumError(
    "DONOR_ARCHITECTURE",
    `config.json: model_type ${JSON.stringify(modelType)} with ${what}: llama.cpp's gemma4 cannot say that`,
    { modelType },
  );
}
