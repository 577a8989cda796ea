import { PhysariumError } from "../errors.js";

/** Rotary position embedding of one kind of layer: each pair of channels turns with its own frequency. */
export interface Rope {
  /** Radians a position, one for each rotated pair; f64. */
  readonly inverseFrequencies: Float64Array;
  /** Factor on cos and sin (yarn); 1 elsewhere. */
  readonly scale: number;
}

/** What `config.json` says under `rope_scaling` (or `rope_parameters` since transformers 5). */
export interface RopeConfig {
  readonly theta: number;
  /** Channels of a head that turn: head_dim, or a part of it (partial_rotary_factor). */
  readonly rotaryDim: number;
  readonly maxPositions: number;
  readonly scaling: Readonly<Record<string, unknown>> | undefined;
}

/**
 * The frequencies of a rope: plain, `linear`, `llama3` or `yarn`; anything else is refused by name.
 * source: RoFormer, arXiv:2104.09864; YaRN, arXiv:2309.00071; `modeling_rope_utils.py` of transformers 4.57
 */
export function ropeOf(config: RopeConfig): Rope {
  const plain = Float64Array.from(
    { length: config.rotaryDim / 2 },
    (_, pair) => config.theta ** ((-2 * pair) / config.rotaryDim),
  );
  const { scaling } = config;
  const type = String(scaling?.rope_type ?? scaling?.type ?? "default");
  if (scaling === undefined || type === "default") return { inverseFrequencies: plain, scale: 1 };
  if (type === "linear") {
    const factor = numberOf(scaling, "factor");
    return { inverseFrequencies: plain.map((frequency) => frequency / factor), scale: 1 };
  }
  if (type === "llama3") return { inverseFrequencies: llama3(plain, scaling), scale: 1 };
  if (type === "yarn") return yarn(plain, config, scaling);
  throw new PhysariumError(
    "DONOR_ROPE",
    `config.json: rope scaling "${type}" is not implemented; known are default, linear, llama3 and yarn`,
    { rope_type: type },
  );
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
  return { inverseFrequencies, scale: numberOf(scaling, "attention_factor", scale) };
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

/** cos and sin for positions 0 … positions − 1: two (positions, rotaryDim / 2) matrices, angles in f64, rounded once. */
export function ropeTables(rope: Rope, positions: number): { cos: Float32Array; sin: Float32Array } {
  const pairs = rope.inverseFrequencies.length;
  const cos = new Float32Array(positions * pairs);
  const sin = new Float32Array(positions * pairs);
  for (let position = 0; position < positions; position++) {
    for (let pair = 0; pair < pairs; pair++) {
      const angle = position * rope.inverseFrequencies[pair];
      cos[position * pairs + pair] = Math.cos(angle) * rope.scale;
      sin[position * pairs + pair] = Math.sin(angle) * rope.scale;
    }
  }
  return { cos, sin };
}
