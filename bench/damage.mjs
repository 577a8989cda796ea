// What the benches of v2 share: damage (ln perplexity − ln dense perplexity) over several draws of calibration samples.
import { compareMethods } from "../dist/compare/comparison.js";
import { parsePattern } from "../dist/methods/stages/select.js";

/** Flags of every such bench, for parseArgs. The defaults are the protocol of docs/flows.md. */
export const DAMAGE_FLAGS = {
  text: { type: "string" },
  targets: { type: "string", default: "0.5,2:4" },
  seeds: { type: "string", default: "1,2,3" },
  samples: { type: "string", default: "256" },
  limit: { type: "string", default: "512" },
  window: { type: "string", default: "128" },
  threads: { type: "string", default: "1" },
  rows: { type: "boolean", default: false },
};

/** `0.5,2:4` → targets. */
export function targetsOf(text) {
  return text
    .split(",")
    .map((word) =>
      word.includes(":")
        ? { kind: "pattern", pattern: parsePattern(word) }
        : { kind: "sparsity", sparsity: Number(word) },
    );
}

/**
 * The record of `compare` for one seed. Documents of the text that are at least a window long are cut to it (with
 * `--rows` the text is WikiText's, one stream in windows) and split into scored and calibrating ones.
 */
export function compareOnce(donor, flags, seed, more) {
  const window = Number(flags.window);
  return compareMethods(donor, {
    text: flags.text,
    calibration: flags.text,
    targets: targetsOf(flags.targets),
    protocol: flags.rows
      ? { rows: true, window, limit: Number(flags.limit) }
      : { protocol: "documents", window, limit: Number(flags.limit) },
    ...(flags.rows ? {} : { minTokens: window }),
    samples: Number(flags.samples),
    seed,
    threads: Number(flags.threads),
    ...more,
  });
}

export function seedsOf(flags) {
  return flags.seeds.split(",").map(Number);
}

export function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** Mean ± sample standard deviation. */
export function meanAndSpread(values) {
  const middle = mean(values);
  const spread = Math.sqrt(
    values.reduce((sum, value) => sum + (value - middle) ** 2, 0) / Math.max(1, values.length - 1),
  );
  return `${middle.toFixed(4)} ± ${spread.toFixed(4)}`;
}
