import type { StoredGrams } from "../calibration/grams/stored-grams.js";
import { writeOwnCalibration } from "../calibration/self-calibration.js";
import { PhysariumError } from "../errors.js";
import type { LayerRunner } from "../probe/forward/layer-runner.js";
import {
  DEFAULT_MAX_WINDOW,
  type PreparedText,
  type ProtocolOptions,
  prepareText,
  type ScoredSequence,
} from "../probe/text/protocols.js";
import { longEnough, splitText, takeSamples } from "../probe/text/samples.js";
import { openTextFile, type TextFile } from "../probe/text/text-file.js";
import type { TextTokenizer } from "../probe/text/tokenizer.js";

/** What of a comparison says which tokens calibrate and which are scored; see `ComparisonOptions`. */
export interface TextOptions {
  readonly text: string;
  readonly calibration?: string;
  readonly protocol: ProtocolOptions;
  readonly samples: number;
  readonly seed: number;
  readonly minTokens?: number;
  /** How many sequences of a window are wanted that neither calibrate nor are scored; default none. */
  readonly fresh?: (window: number) => number;
  readonly onProgress?: (words: string) => void;
  readonly signal?: AbortSignal;
}

interface NamedText {
  readonly name: string;
  readonly sha256: string;
  readonly file: TextFile;
}

export interface TakenTexts {
  readonly sequences: readonly (readonly number[])[];
  readonly fresh: readonly (readonly number[])[];
  readonly scored: readonly ScoredSequence[];
}

export interface Texts {
  readonly text: NamedText & { readonly prepared: PreparedText };
  readonly from: { readonly name: string; readonly sha256: string };
  /** How many of each there will be. */
  readonly calibrationTokens: number;
  readonly scoredTokens: number;
  /** The sequences that calibrate and those that are scored; takes long where the donor writes the former. */
  take(): Promise<TakenTexts>;
}

/**
 * What is scored and what calibrates. Of long texts only as much is read as is used, where samples are taken in order.
 */
export async function openTexts(
  tokenizer: TextTokenizer,
  runner: LayerRunner,
  options: TextOptions,
  grams: StoredGrams | undefined,
): Promise<Texts> {
  const { samples, seed, minTokens, protocol } = options;
  const { maxPositions } = runner.architecture;
  const fresh = options.fresh?.(protocol.window ?? Math.min(DEFAULT_MAX_WINDOW, maxPositions)) ?? 0;
  const sampling = { samples, seed, fresh, ...(minTokens === undefined ? {} : { minTokens }) };
  // What --skip leaves out is of the text that is scored.
  const prepare = ({ file }: NamedText, limit: number | undefined, skip = protocol.skip): Promise<PreparedText> =>
    prepareText(file.read(), tokenizer, maxPositions, {
      ...protocol,
      ...(minTokens === undefined ? {} : { minTokens }),
      limit,
      ...(skip === undefined ? {} : { skip }),
    });
  const idsOf = (split: readonly ScoredSequence[]) => split.map(({ ids }) => ids);

  const text = await readText(options.text, options.signal);
  if (grams?.textSha256 === text.sha256) {
    throw new PhysariumError(
      "USAGE_CALIBRATION",
      `${options.calibration}: the Grams were collected from ${options.text}, the text that is scored, which would ` +
        "flatter every method that calibrates; score another text",
    );
  }
  const named = grams === undefined ? options.calibration : undefined;
  const from = named === undefined ? undefined : await readText(named, options.signal);
  if (from?.sha256 === text.sha256) {
    // One text for both: what is scored stands behind the samples.
    const enough = seed === 0 && protocol.limit !== undefined ? samples + protocol.limit + fresh : undefined;
    const prepared = await prepare(text, enough);
    const split = splitText(prepared, sampling, protocol.limit);
    return known({ ...text, prepared }, from, idsOf(split.calibration), idsOf(split.fresh), split.rest);
  }
  const prepared = await prepare(text, protocol.limit);
  const scored = scoredOf(text.name, prepared, options);
  if (from !== undefined) {
    const split = takeSamples(await prepare(from, seed === 0 ? samples + fresh : undefined, 0), sampling);
    return known({ ...text, prepared }, from, idsOf(split.calibration), idsOf(split.fresh), scored);
  }
  if (grams !== undefined) {
    const { grams: name = "", ids_sha256 } = grams.record;
    return known({ ...text, prepared }, { name, sha256: ids_sha256 }, [], [], scored);
  }
  const { window } = prepared.record;
  return {
    text: { ...text, prepared },
    from: { name: SELF_WRITTEN, sha256: SELF_WRITTEN },
    calibrationTokens: samples * window,
    scoredTokens: countTokens(idsOf(scored)),
    async take() {
      options.onProgress?.(`the donor writes ${samples} sequences of ${window} tokens to calibrate on`);
      const all = await writeOwnCalibration(runner, tokenizer, samples + fresh, window, seed, options.signal);
      return { sequences: all.slice(0, samples), fresh: all.slice(samples), scored };
    },
  };
}

/** Texts whose sequences are there already. */
function known(
  text: Texts["text"],
  from: Texts["from"],
  sequences: readonly (readonly number[])[],
  fresh: readonly (readonly number[])[],
  scored: readonly ScoredSequence[],
): Texts {
  return {
    text,
    from,
    calibrationTokens: countTokens(sequences),
    scoredTokens: countTokens(scored.map(({ ids }) => ids)),
    take: async () => ({ sequences, fresh, scored }),
  };
}

export function countTokens(sequences: readonly ArrayLike<number>[]): number {
  return sequences.reduce((sum, { length }) => sum + length, 0);
}

async function readText(name: string, signal: AbortSignal | undefined): Promise<NamedText> {
  const file = await openTextFile(name, { signal });
  return { name, file, sha256: file.sha256 };
}

/** Scored sequences that calibrate, too: none where one text is split, but a text may hold another. */
export function countShared(calibration: readonly (readonly number[])[], scored: readonly ScoredSequence[]): number {
  const known = new Set(calibration.map((ids) => ids.join()));
  return scored.filter(({ ids }) => known.has(ids.join())).length;
}

/** Where calibration came from when no text was given. */
export const SELF_WRITTEN = "text the donor wrote itself";

function scoredOf(name: string, prepared: PreparedText, { minTokens, protocol }: TextOptions): ScoredSequence[] {
  const scored = longEnough(prepared.sequences, minTokens).slice(0, protocol.limit);
  if (scored.length > 0) return scored;
  throw new PhysariumError(
    "USAGE_TEXT_SHORT",
    `${name}: no sequence has ${minTokens ?? 2} tokens; lower --min-tokens`,
    {
      minTokens,
    },
  );
}
