import { PhysariumError } from "../errors.js";
import { Fields, type Json } from "./config-fields.js";

export type RopeScaling =
  | { readonly kind: "none" }
  | { readonly kind: "linear"; readonly factor: number }
  | {
      readonly kind: "llama3";
      readonly factor: number;
      readonly lowFreqFactor: number;
      readonly highFreqFactor: number;
      readonly originalContextLength: number;
    }
  | {
      readonly kind: "longrope";
      /** A factor a rotated pair, for contexts up to the original length and for longer ones. */
      readonly shortFactors: readonly number[];
      readonly longFactors: readonly number[];
      readonly attentionFactor: number;
      readonly originalContextLength: number;
    }
  | {
      readonly kind: "yarn";
      readonly factor: number;
      readonly originalContextLength: number;
      /** What Ministral 3 says beyond the usual, by its keys in GGUF. */
      readonly told?: Readonly<Record<string, number>>;
    };

/** What an engine can be told of a scaling, and what config.json says of it elsewhere. */
export interface RopeReading {
  readonly contextLength: number;
  /** Positions before any stretching, where they stand outside of the scaling (Phi-3). */
  readonly originalPositions?: number | undefined;
  /** The engine rounds the borders of yarn's ramp whatever the file says. */
  readonly roundsYarn?: boolean | undefined;
  /** The engine takes betas, a multiplier and a temperature of yarn from the file. */
  readonly tellsYarn?: boolean | undefined;
  /** Rotated pairs of a head, where the engine takes a factor for each. */
  readonly pairs?: number | undefined;
}

/** What a rope scaling says. Throws `DONOR_ARCHITECTURE` for one that no GGUF file can say. */
export function parseRopeScaling(scaling: Json | null, name: string, reading: RopeReading): RopeScaling {
  const { contextLength, roundsYarn, tellsYarn } = reading;
  const kind = scaling?.rope_type ?? scaling?.type ?? "default";
  if (scaling === null || kind === "default") return { kind: "none" };
  const fields = new Fields(scaling, `${name}: rope_scaling`);
  if (kind === "linear") return { kind, factor: fields.positive("factor") };
  if (kind === "llama3") {
    return {
      kind,
      factor: fields.positive("factor"),
      lowFreqFactor: fields.positive("low_freq_factor"),
      highFreqFactor: fields.positive("high_freq_factor"),
      originalContextLength: fields.count("original_max_position_embeddings"),
    };
  }
  if (kind === "yarn") {
    const factor = fields.positive("factor");
    // What llama.cpp takes without being told.
    const usual = { beta_fast: 32, beta_slow: 1, attention_factor: 1 + 0.1 * Math.log(factor), truncate: true };
    for (const [field, value] of Object.entries(usual)) {
      if (roundsYarn === true && field === "truncate") continue;
      if (tellsYarn === true && field.startsWith("beta")) continue;
      if (tellsYarn === true && field === "attention_factor") continue;
      const isOther = (given: unknown) => !(given === value || Math.abs(Number(given) - Number(value)) < 1e-6);
      fields.refuse(field, isOther, `only ${value} is known`);
    }
    const originalContextLength = fields.optionalCount("original_max_position_embeddings") ?? contextLength;
    if (tellsYarn === true) return { kind, factor, originalContextLength, told: toldOfYarn(fields) };
    const extra = ["mscale", "mscale_all_dim", "llama_4_scaling_beta"];
    for (const field of extra) fields.refuse(field, (value) => value !== 0, "not known");
    return { kind, factor, originalContextLength };
  }
  if ((kind === "longrope" || kind === "su") && reading.pairs !== undefined) {
    return longRope(scaling, fields, reading.pairs, reading);
  }
  throw new PhysariumError(
    "DONOR_ARCHITECTURE",
    `${name}: rope scaling ${JSON.stringify(kind)} is not supported, known are linear, llama3 and yarn, and longrope ` +
      "in phi3",
    { ropeScaling: kind },
  );
}

/** The keys that llama.cpp's mistral3 reads; it takes mscale for 1 wherever it has a multiplier. */
function toldOfYarn(fields: Fields): Record<string, number> {
  const multiplier = fields.optionalNumber("mscale_all_dim") ?? 0;
  const mscale = fields.optionalNumber("mscale") ?? 0;
  if (multiplier !== 0) fields.refuse("mscale", (value) => value !== 0 && value !== 1, "only 1 is known");
  fields.refuse("attention_factor", () => true, "not known beside mscale");
  const temperature = fields.optionalNumber("llama_4_scaling_beta") ?? 0;
  return {
    "rope.scaling.yarn_beta_fast": fields.optionalPositive("beta_fast") ?? 32,
    "rope.scaling.yarn_beta_slow": fields.optionalPositive("beta_slow") ?? 1,
    ...(multiplier !== 0 && mscale !== 0 ? { "rope.scaling.yarn_log_multiplier": multiplier } : {}),
    ...(temperature === 0 ? {} : { "attention.temperature_scale": temperature }),
  };
}

/** source: LongRoPE, arXiv:2402.13753; `_compute_longrope_parameters` of transformers 5.24 */
function longRope(scaling: Json, fields: Fields, pairs: number, reading: RopeReading): RopeScaling {
  const { contextLength, originalPositions } = reading;
  const factorsOf = (field: string): number[] => {
    const values = scaling[field];
    const isFactor = (value: unknown) => typeof value === "number" && value > 0 && value < Number.POSITIVE_INFINITY;
    if (Array.isArray(values) && values.length === pairs && values.every(isFactor)) return values;
    return fields.fail(field, `expected ${pairs} positive numbers, one a rotated pair of channels`);
  };
  const original = originalPositions ?? fields.optionalCount("original_max_position_embeddings") ?? contextLength;
  const factor = fields.optionalPositive("factor") ?? contextLength / original;
  return {
    kind: "longrope",
    shortFactors: factorsOf("short_factor"),
    longFactors: factorsOf("long_factor"),
    attentionFactor: fields.optionalPositive("attention_factor") ?? longRopeAttention(factor, original),
    originalContextLength: original,
  };
}

/** Factor on cos and sin of a context that is `factor` times as long as the original. */
export function longRopeAttention(factor: number, original: number): number {
  return factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(original));
}
