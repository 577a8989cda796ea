import { elementCount } from "../../checkpoint/donor.js";
import type { ByteSource } from "../../safetensors/source.js";
import { dequantise } from "../dequantise.js";
import type { RopeScaling } from "../rope-scaling.js";
import type { GgufFile } from "./reader.js";

/** A factor a rotated pair of channels, as llama.cpp divides its angles by: `[ropeLength / 2]`, under its name. */
export interface RopeFactors {
  readonly name: string;
  readonly values: Float32Array;
}

/** The names of a file's lists: one for every context, or one for short and one for long ones. */
const TENSORS = { freqs: "rope_freqs.weight", long: "rope_factors_long.weight", short: "rope_factors_short.weight" };

/** What a file has of them. */
export type FileRopeFactors = { readonly [list in keyof typeof TENSORS]?: Float32Array };

/** The lists that a scaling needs in a file. */
export function ropeFactorsOf(scaling: RopeScaling, ropeLength: number, ropeTheta: number): RopeFactors[] {
  if (scaling.kind === "llama3") {
    return [{ name: TENSORS.freqs, values: llama3RopeFactors(scaling, ropeLength, ropeTheta) }];
  }
  if (scaling.kind !== "longrope") return [];
  return [
    { name: TENSORS.long, values: Float32Array.from(scaling.longFactors) },
    { name: TENSORS.short, values: Float32Array.from(scaling.shortFactors) },
  ];
}

/** Read a file's lists. */
export async function readRopeFactors(source: ByteSource, file: GgufFile): Promise<FileRopeFactors> {
  const found: { [list in keyof typeof TENSORS]?: Float32Array } = {};
  for (const list of Object.keys(TENSORS) as (keyof typeof TENSORS)[]) {
    const info = file.tensors.find((tensor) => tensor.name === TENSORS[list]);
    // No head has more channels than this; a larger tensor is hostile and no factor list.
    if (info === undefined || info.type !== "F32" || elementCount(info.shape) > 65_536) continue;
    const bytes = await source.read(info.byteOffset, info.byteOffset + info.byteLength);
    found[list] = dequantise("F32", bytes.slice());
  }
  return found;
}

export function isRopeFactors(tensor: string): boolean {
  return Object.values(TENSORS).includes(tensor);
}

/**
 * Llama 3's rope scaling as one factor a frequency: long waves are slowed by `factor`, short ones not, those between in
 * proportion. Same formula as transformers `_compute_llama3_parameters`, in f64; llama.cpp has no other way to be told.
 */
export function llama3RopeFactors(
  scaling: Extract<RopeScaling, { kind: "llama3" }>,
  ropeLength: number,
  ropeTheta: number,
): Float32Array {
  const { factor, lowFreqFactor, highFreqFactor, originalContextLength } = scaling;
  const factors = new Float32Array(ropeLength / 2);
  for (let i = 0; i < factors.length; i++) {
    const waveLength = 2 * Math.PI * ropeTheta ** ((2 * i) / ropeLength);
    if (waveLength < originalContextLength / highFreqFactor) factors[i] = 1;
    else if (waveLength > originalContextLength / lowFreqFactor) factors[i] = factor;
    else {
      const smooth = (originalContextLength / waveLength - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
      factors[i] = 1 / ((1 - smooth) / factor + smooth);
    }
  }
  return factors;
}

type Llama3Scaling = Extract<RopeScaling, { kind: "llama3" }>;

/** Rope scalings that models in use have: a GGUF file holds the factors they give, not the numbers they came from. */
const KNOWN_LLAMA3_SCALINGS: readonly Llama3Scaling[] = [8, 32, 16, 4, 2].flatMap((factor) =>
  [8192, 4096, 2048].map((originalContextLength) => ({
    kind: "llama3",
    factor,
    lowFreqFactor: 1,
    highFreqFactor: 4,
    originalContextLength,
  })),
);

/** Whether an import finds the scaling again that these lists come from. */
export function isFoundAgain(lists: readonly RopeFactors[], ropeLength: number, ropeTheta: number): boolean {
  const freqs = lists.find(({ name }) => name === TENSORS.freqs);
  return freqs === undefined || llama3ScalingOf(freqs.values, ropeLength, ropeTheta) !== undefined;
}

/** The scaling that gives these factors, if one does. */
export function llama3ScalingOf(
  factors: Float32Array,
  ropeLength: number,
  ropeTheta: number,
): Llama3Scaling | undefined {
  return [...KNOWN_LLAMA3_SCALINGS, ...fitLlama3Scaling(factors, ropeLength, ropeTheta)].find((candidate) => {
    // Compared first: a hostile length must not become an allocation.
    if (factors.length * 2 !== ropeLength) return false;
    const expected = llama3RopeFactors(candidate, ropeLength, ropeTheta);
    return expected.every((factor, i) => Math.abs(factor / factors[i] - 1) < 1e-5);
  });
}

/**
 * A scaling that gives these factors, if one does: between the short and the long waves 1/factor is a straight line
 * over 1/wavelength, and two of its points tell where it begins and ends. Only the ratios to the original length
 * matter, so the low one is taken as 1.
 */
function fitLlama3Scaling(factors: Float32Array, ropeLength: number, ropeTheta: number): Llama3Scaling[] {
  const factor = factors[factors.length - 1];
  const points: { frequency: number; smooth: number }[] = [];
  for (const [i, value] of factors.entries()) {
    const smooth = (1 / value - 1 / factor) / (1 - 1 / factor);
    const frequency = ropeTheta ** ((-2 * i) / ropeLength) / (2 * Math.PI);
    if (smooth > 1e-4 && smooth < 1 - 1e-4) points.push({ frequency, smooth });
  }
  const [first, last] = [points[0], points[points.length - 1]];
  if (points.length < 2) return [];
  const slope = (first.smooth - last.smooth) / (first.frequency - last.frequency);
  const highFreqFactor = 1 - 1 / (first.smooth - slope * first.frequency);
  const originalContextLength = Math.round(slope * (highFreqFactor - 1));
  return [
    {
      kind: "llama3",
      factor,
      lowFreqFactor: 1,
      highFreqFactor: Number(highFreqFactor.toPrecision(6)),
      originalContextLength,
    },
  ];
}
