import { meanEnergyOf } from "../methods/algebra/damped.js";
import type { StatisticsStrip } from "../methods/method.js";
import type { SiteStatistics } from "./grams/stored-grams.js";

/**
 * How far the statistics of so many tokens are trusted where an expert saw no others: n tokens cannot tell more than n
 * inputs apart, so below one token an input the share is n / inputs.
 */
export function trustIn(tokens: number, inputs: number): number {
  return Math.min(1, tokens / inputs);
}

/**
 * Statistics of an expert that saw few tokens: that share of its own, and the rest of inputs that are all alike and
 * know nothing of each other, as large as its own on average. So little is learnt from little: with fewer tokens the
 * choice goes by magnitude more, and survivors are anchored and healed less; with none they keep the donor's bits.
 *
 * G ← s G + (1 − s) ε I, K ← s K + (1 − s) ε I, drift ← s drift, means ← s means, with ε = mean diag G, or 1 without
 * tokens.
 */
export function tempered(statistics: SiteStatistics, tokens: number, cols: number): SiteStatistics {
  const share = trustIn(tokens, cols);
  const { inputs, tiled, energies } = statistics;
  if (share === 1) return statistics;
  if (energies !== undefined) {
    const mean = tokens === 0 ? 1 : energies.reduce((sum, value) => sum + value, 0) / cols || 1;
    return { energies: energies.map((value) => (tokens === 0 ? 1 : share * value + (1 - share) * mean)) };
  }
  if (inputs !== undefined) {
    const mean = (tokens === 0 ? 0 : meanEnergyOf(inputs.gram, cols)) || 1;
    const { gram, cross, drift, mean: center } = inputs;
    return {
      inputs: {
        ...inputs,
        gram: mixed(gram, share, mean, cols, 0),
        ...(cross === undefined ? {} : { cross: mixed(cross, share, mean, cols, 0) }),
        ...(drift === undefined ? {} : { drift: drift.map((value) => (share === 0 ? 0 : share * value)) }),
        ...(center === undefined ? {} : { mean: center.map((value) => (share === 0 ? 0 : share * value)) }),
      },
    };
  }
  if (tiled === undefined) return statistics;
  const mean = (tokens === 0 ? 0 : tiled.meanEnergy) || 1;
  return {
    tiled: {
      meanEnergy: mean,
      async strip(colStart, colEnd): Promise<StatisticsStrip> {
        const width = colEnd - colStart;
        if (share === 0) return { gram: mixed(new Float32Array(cols * width), 0, mean, width, colStart) };
        const { gram, cross, drift } = await tiled.strip(colStart, colEnd);
        return {
          gram: mixed(gram, share, mean, width, colStart),
          ...(cross === undefined ? {} : { cross: mixed(cross, share, mean, width, colStart) }),
          ...(drift === undefined ? {} : { drift: drift.map((value) => share * value) }),
        };
      },
    },
  };
}

/** share · matrix + (1 − share) · mean on the diagonal; the matrix is (rows, width) and begins at column `colStart`. */
function mixed(matrix: Float32Array, share: number, mean: number, width: number, colStart: number): Float32Array {
  const out = share === 0 ? new Float32Array(matrix.length) : matrix.map((value) => share * value);
  for (let col = 0; col < width; col++) out[(colStart + col) * width + col] += (1 - share) * mean;
  return out;
}
