import { basename } from "node:path";
import { sha256 } from "hash-wasm";
import { PhysariumError } from "../errors.js";
import type { LayerRunner } from "../probe/forward/layer-runner.js";
import { DEFAULT_MAX_WINDOW, type ProtocolOptions, prepareText } from "../probe/text/protocols.js";
import { takeSamples } from "../probe/text/samples.js";
import { openTextFile } from "../probe/text/text-file.js";
import { TextTokenizer } from "../probe/text/tokenizer.js";
import type { CalibrationRecord } from "../record/ledger.js";
import { isGramFile, StoredGrams } from "./grams/stored-grams.js";
import { writeOwnCalibration } from "./self-calibration.js";

export interface CalibrationRequest {
  /** UTF-8 text; without one the donor writes its own. */
  readonly path?: string;
  readonly samples?: number;
  /** How many sequences of a window are wanted beside those, for what learns behind the calibration; default none. */
  readonly fresh?: (window: number) => number;
  /** Tokens a sample; default min(2048, max_position_embeddings). */
  readonly window?: number;
  /** 0 takes samples in the order of the text, another number draws them. */
  readonly seed?: number;
  /** How the text becomes sequences, as for `eval`. */
  readonly protocol?: ProtocolOptions;
  readonly signal?: AbortSignal | undefined;
}

export interface Calibration {
  readonly sequences: readonly (readonly number[])[];
  /** None of those; fewer than were asked for where the text has no more. */
  readonly fresh: readonly (readonly number[])[];
  /** In place of sequences, where they were run before. */
  readonly grams?: StoredGrams;
  /** For report and ledger. */
  readonly record: CalibrationRecord;
}

/** A calibration that can be had: everything refusable was refused, and what takes long is still to come. */
export interface CalibrationSource {
  readonly samples: number;
  /** Tokens of all samples together. */
  readonly tokens: number;
  /** Tokens whose activations are held while layers are operated on; default all. */
  readonly heldTokens?: number;
  /** The sequences; without a text this is where the donor writes them. */
  take(signal?: AbortSignal): Promise<Calibration>;
  close?(): Promise<void>;
}

export const DEFAULT_SAMPLES = 128;

/**
 * Look for calibration sequences of a model, from a text or to be written by itself. Throws `USAGE_TEXT_*`,
 * `USAGE_WINDOW`, `USAGE_CALIBRATION`, `USAGE_BOS`, `DONOR_TOKENIZER_*`.
 */
export async function openCalibration(runner: LayerRunner, request: CalibrationRequest): Promise<CalibrationSource> {
  const { path, samples = DEFAULT_SAMPLES, seed = 0 } = request;
  if (!Number.isSafeInteger(samples) || samples < 1 || !Number.isSafeInteger(seed)) {
    throw new PhysariumError(
      "USAGE_CALIBRATION",
      `--samples ${samples} --seed ${seed}: expected whole numbers, samples at least 1`,
    );
  }
  if (isGramFile(path)) {
    const grams = await StoredGrams.open(path, runner.donor);
    await grams.requireWhole("the activation flow");
    const { record } = grams;
    // Nothing is run: no activations are held.
    return {
      samples: record.samples,
      tokens: record.tokens,
      heldTokens: 0,
      take: async () => ({ sequences: [], fresh: [], grams, record }),
      close: () => grams.close(),
    };
  }
  const { signal } = request;
  const { donor } = runner;
  const { maxPositions } = runner.architecture;
  const window = request.window ?? Math.min(DEFAULT_MAX_WINDOW, maxPositions);
  const wanted = request.fresh?.(window) ?? 0;
  if (path === undefined) {
    runner.refuseLookingAhead();
    if (!Number.isSafeInteger(window) || window < 2 || window > maxPositions) {
      throw new PhysariumError("USAGE_WINDOW", `--window ${window}: a window has 2 to ${maxPositions} tokens`, {
        window,
      });
    }
    const tokenizer = await TextTokenizer.with(donor.path, { signal }, (opened) => opened);
    return {
      samples,
      tokens: samples * window,
      async take(stop) {
        try {
          const all = await writeOwnCalibration(runner, tokenizer, samples + wanted, window, seed, stop);
          const sequences = all.slice(0, samples);
          const record = await recordOf(sequences, null, null, window, seed);
          return { sequences, fresh: all.slice(samples), record };
        } finally {
          // Its sessions are for generating; what they hold is wanted by others.
          await runner.close();
        }
      },
    };
  }
  const text = await openTextFile(path, { signal });
  const prepared = await TextTokenizer.with(donor.path, { signal }, (tokenizer) =>
    prepareText(text.read(), tokenizer, maxPositions, {
      ...request.protocol,
      window,
      // In order, the first samples are all that is needed of a text that may be long.
      ...(seed === 0 ? { limit: samples + wanted } : {}),
    }),
  );
  const split = takeSamples(prepared, { samples, seed, fresh: wanted });
  const [sequences, fresh] = [split.calibration, split.fresh].map((part) => part.map(({ ids }) => ids));
  const record = await recordOf(sequences, basename(path), text.sha256, window, seed);
  return { samples: record.samples, tokens: record.tokens, take: async () => ({ sequences, fresh, record }) };
}

async function recordOf(
  sequences: readonly (readonly number[])[],
  text: string | null,
  textDigest: string | null,
  window: number,
  seed: number,
): Promise<CalibrationRecord> {
  return {
    text,
    sha256: textDigest,
    samples: sequences.length,
    window,
    tokens: sequences.reduce((sum, { length }) => sum + length, 0),
    seed,
    ids_sha256: await sha256(JSON.stringify(sequences)),
  };
}
