import { PhysariumError } from "../../errors.js";
import type { PreparedText, ScoredSequence } from "./protocols.js";
import { randomNumbers } from "./random.js";

export interface SampleOptions {
  readonly samples: number;
  /** 0 takes samples in the order of the text, any other draws them at random, always the same for a seed. */
  readonly seed: number;
  /** Sequences beside those, where the text has so many. */
  readonly fresh?: number;
  /** Sequences shorter than this many tokens are left out. */
  readonly minTokens?: number;
}

/** Sequences that calibrate, and those left over. */
export interface Split {
  readonly calibration: readonly ScoredSequence[];
  /** They neither calibrate nor are scored: the next ones drawn. */
  readonly fresh: readonly ScoredSequence[];
  readonly rest: readonly ScoredSequence[];
}

/** Take the samples of a prepared text that calibrate. Throws `USAGE_CALIBRATION` where none is long enough. */
export function takeSamples(text: PreparedText, options: SampleOptions): Split {
  const all = longEnough(text.sequences, options.minTokens);
  const drawn = options.seed === 0 ? all : shuffled(all, options.seed);
  const calibration = drawn.slice(0, options.samples);
  if (calibration.length === 0) {
    throw new PhysariumError(
      "USAGE_CALIBRATION",
      "the calibration text gives no sample of the length asked for; take a longer text, or a smaller --window",
      { sequences: text.sequences.length, minTokens: options.minTokens },
    );
  }
  return { calibration, fresh: freshOf(drawn, options), rest: drawn.slice(options.samples) };
}

/**
 * One text that both calibrates and is scored, each sequence for one purpose only: the `samples` sequences at its start
 * are kept from scoring, the next `limit` are scored, and calibration draws (in order for seed 0) from all that are not
 * scored.
 */
export function splitText(text: PreparedText, options: SampleOptions, limit = Number.POSITIVE_INFINITY): Split {
  const all = longEnough(text.sequences, options.minTokens);
  const scored = all.slice(options.samples, options.samples + limit);
  if (scored.length === 0) {
    throw new PhysariumError(
      "USAGE_CALIBRATION",
      `text and calibration are one file of ${all.length} sequences, and ${options.samples} samples leave none to ` +
        "score; take fewer --samples or another text",
      { sequences: all.length, samples: options.samples },
    );
  }
  const others = [...all.slice(0, options.samples), ...all.slice(options.samples + scored.length)];
  const drawn = options.seed === 0 ? others : shuffled(others, options.seed);
  return { calibration: drawn.slice(0, options.samples), fresh: freshOf(drawn, options), rest: scored };
}

function freshOf<T>(drawn: readonly T[], { samples, fresh = 0 }: SampleOptions): T[] {
  return drawn.slice(samples, samples + fresh);
}

export function longEnough(sequences: readonly ScoredSequence[], minTokens = 2): ScoredSequence[] {
  return sequences.filter(({ ids }) => ids.length >= minTokens);
}

/** Fisher–Yates. */
function shuffled<T>(items: readonly T[], seed: number): T[] {
  const out = [...items];
  const random = randomNumbers(seed);
  for (let at = out.length - 1; at > 0; at--) {
    const other = Math.floor(random() * (at + 1));
    [out[at], out[other]] = [out[other], out[at]];
  }
  return out;
}
