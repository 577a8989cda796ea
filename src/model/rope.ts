import { PhysariumError } from "../errors.js";

/** Rotary position embedding of one kind of layer: each pair of channels turns with its own frequency. */
export interface Rope {
  /** Radians a position, one for each rotated pair; f64. */
  readonly inverseFrequencies: Float64Array;
  /** Factor on cos and sin (yarn, longrope); 1 elsewhere. */
  readonly scale: number;
  /** Channels 2i and 2i + 1 turn together, not i and i + half. */
  readonly interleaved?: boolean;
  /** Texts of more than `positions` tokens turn with other frequencies (longrope). */
  readonly long?: { readonly positions: number; readonly inverseFrequencies: Float64Array };
  /** Queries are multiplied by 1 + beta · ln(1 + ⌊position / positions⌋) (Ministral 3). */
  readonly queryScale?: { readonly beta: number; readonly positions: number };
}

/** What `config.json` says under `rope_scaling` (or `rope_parameters` since transformers 5). */
export interface RopeConfig {
  readonly theta: number;
  /** Channels of a head that turn: head_dim, or a part of it (partial_rotary_factor). */
  readonly rotaryDim: number;
  readonly maxPositions: number;
  /** Positions before any stretching, where config.json has them outside of the scaling (Phi-3). */
  readonly originalPositions?: number | undefined;
  readonly interleaved?: boolean;
  readonly scaling: Readonly<Record<string, unknown>> | undefined;
}

/**
 * The frequencies of a rope: plain, `linear`, `llama3`, `yarn`, `longrope`, or `dynamic` with a fixed alpha; anything
 * else is refused by name.
 * source: RoFormer, arXiv:2104.09864; YaRN, arXiv:2309.00071; `modeling_rope_utils.py` of transformers 4.57
 */
export function ropeOf(config: RopeConfig): Rope {
  const { interleaved } = config;
  return { ...scaled(config), ...(interleaved ? { interleaved } : {}) };
}

function scaled(config: RopeConfig): Rope {
  const plain = frequencies(config.theta, config.rotaryDim);
  const { scaling } = config;
  const type = String(scaling?.rope_type ?? scaling?.type ?? "default");
  if (scaling === undefined || type === "default") return { inverseFrequencies: plain, scale: 1 };
  if (type === "proportional") {
    // Part of the pairs turn, as fast as if all did; the others stand still (Gemma 4).
    const turning = Math.trunc((numberOf(scaling, "partial_rotary_factor", 1) * config.rotaryDim) / 2);
    const factor = numberOf(scaling, "factor", 1);
    const turns = plain.map((frequency, pair) => (pair < turning ? frequency / factor : 0));
    return { inverseFrequencies: turns, scale: 1 };
  }
  if (type === "linear") {
    const factor = numberOf(scaling, "factor");
    return { inverseFrequencies: plain.map((frequency) => frequency / factor), scale: 1 };
  }
  if (type === "llama3") return { inverseFrequencies: llama3(plain, scaling), scale: 1 };
  if (type === "yarn") return yarn(plain, config, scaling);
  if (type === "longrope" || type === "su") return longrope(plain, config, scaling);
  if (type === "dynamic" && typeof scaling.alpha === "number" && scaling.alpha > 0) {
    // Hunyuan's: the base is stretched once, whatever the length of a text.
    const theta = config.theta * scaling.alpha ** (config.rotaryDim / (config.rotaryDim - 2));
    return { inverseFrequencies: frequencies(theta, config.rotaryDim), scale: 1 };
  }
  throw new PhysariumError(
    "DONOR_ROPE",
    `config.json: rope scaling "${type}" is not implemented; known are default, linear, llama3, yarn, longrope and ` +
      "proportional",
    { rope_type: type },
  );
}

function frequencies(theta: number, rotaryDim: number): Float64Array {
  return Float64Array.from({ length: rotaryDim / 2 }, (_, pair) => theta ** ((-2 * pair) / rotaryDim));
}

/**
 * A factor a frequency, one list for texts up to the original length and one for longer ones.
 * source: LongRoPE, arXiv:2402.13753; `_compute_longrope_parameters` of transformers 5.24
 */
function longrope(plain: Float64Array, config: RopeConfig, scaling: Readonly<Record<string, unknown>>): Rope {
  const positions =
    config.originalPositions ?? numberOf(scaling, "original_max_position_embeddings", config.maxPositions);
  const factor = numberOf(scaling, "factor", config.maxPositions / positions);
  const scale = factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(positions));
  const divided = (key: string): Float64Array => {
    const factors = scaling[key];
    if (!Array.isArray(factors) || factors.length !== plain.length || !factors.every((value) => value > 0)) {
      throw new PhysariumError(
        "DONOR_CONFIG",
        `config.json: rope scaling needs ${plain.length} positive numbers under ${key}, one a rotated pair of channels`,
        { key },
      );
    }
    return plain.map((frequency, pair) => frequency / factors[pair]);
  };
  return {
    inverseFrequencies: divided("short_factor"),
    scale: numberOf(scaling, "attention_factor", scale),
    long: { positions, inverseFrequencies: divided("long_factor") },
  };
}

/** Slow frequencies are stretched by `factor`, fast ones stay, those between are blended. */
function llama3(plain: Float64Array, scaling: Readonly<Record<string, unknown>>): Float64Array {
  const factor = numberOf(scaling, "factor");
  const low = numberOf(scaling, "low_freq_factor");
  const high = numberOf(scaling, "high_freq_factor");
  const original = numberOf(scaling, "original_max_position_embeddings");
  return plain.map((frequency) => {
    const wavelength = (2 * Math.PI) / frequency;
    if (wavelength < original / high) return frequency;
    if (wavelength > original / low) return frequency / factor;
    const smooth = (original / wavelength - low) / (high - low);
    return ((1 - smooth) * frequency) / factor + smooth * frequency;
  });
}

function yarn(plain: Float64Array, config: RopeConfig, scaling: Readonly<Record<string, unknown>>): Rope {
  const factor = numberOf(scaling, "factor");
  const original = numberOf(scaling, "original_max_position_embeddings", config.maxPositions);
  const pairAt = (rotations: number): number =>
    (config.rotaryDim * Math.log(original / (rotations * 2 * Math.PI))) / (2 * Math.log(config.theta));
  const truncate = scaling.truncate !== false;
  const first = pairAt(numberOf(scaling, "beta_fast", 32));
  const last = pairAt(numberOf(scaling, "beta_slow", 1));
  const low = Math.max(truncate ? Math.floor(first) : first, 0);
  let high = Math.min(truncate ? Math.ceil(last) : last, config.rotaryDim - 1);
  // The reference avoids a division by zero with the same 0.001.
  if (low === high) high += 0.001;
  const inverseFrequencies = plain.map((frequency, pair) => {
    const interpolated = Math.min(Math.max((pair - low) / (high - low), 0), 1);
    return (frequency / factor) * interpolated + frequency * (1 - interpolated);
  });
  const stretch = (mscale: number): number => (factor <= 1 ? 1 : 0.1 * mscale * Math.log(factor) + 1);
  const mscale = numberOf(scaling, "mscale", 0);
  const mscaleAllDim = numberOf(scaling, "mscale_all_dim", 0);
  const scale = mscale && mscaleAllDim ? stretch(mscale) / stretch(mscaleAllDim) : stretch(1);
  const beta = numberOf(scaling, "llama_4_scaling_beta", 0);
  return {
    inverseFrequencies,
    scale: numberOf(scaling, "attention_factor", scale),
    ...(beta === 0 ? {} : { queryScale: { beta, positions: original } }),
  };
}

function numberOf(scaling: Readonly<Record<string, unknown>>, key: string, fallback?: number): number {
  const value = scaling[key] ?? fallback;
  if (typeof value === "number" && Number.isFinite(value)) return value;
  throw new PhysariumError(
    "DONOR_CONFIG",
    `config.json: rope scaling needs the number ${key}, found ${JSON.stringify(value)}`,
    { key },
  );
}

/**
 * cos and sin for positions 0 … positions − 1: two (positions, rotaryDim / 2) matrices, angles in f64, rounded once.
 * `length`: tokens of the whole text, these included.
 */
export function ropeTables(
  rope: Rope,
  positions: number,
  length = positions,
): { cos: Float32Array; sin: Float32Array } {
  const { scale, long } = rope;
  const turns = isLong(rope, length) ? long!.inverseFrequencies : rope.inverseFrequencies;
  const pairs = turns.length;
  const cos = new Float32Array(positions * pairs);
  const sin = new Float32Array(positions * pairs);
  for (let position = 0; position < positions; position++) {
    for (let pair = 0; pair < pairs; pair++) {
      const angle = position * turns[pair];
      cos[position * pairs + pair] = Math.cos(angle) * scale;
      sin[position * pairs + pair] = Math.sin(angle) * scale;
    }
  }
  return { cos, sin };
}

/** Whether a text of so many tokens turns with the long frequencies. */
export function isLong({ long }: Rope, length: number): boolean {
  return long !== undefined && length > long.positions;
}

/** Factors on the queries of positions 0 … positions − 1. */
export function queryScales(
  { beta, positions: every }: NonNullable<Rope["queryScale"]>,
  positions: number,
): Float32Array {
  return Float32Array.from(
    { length: positions },
    (_, position) => 1 + beta * Math.log(1 + Math.floor(position / every)),
  );
}
