import { availableParallelism } from "node:os";
import { resolve } from "node:path";
import { sha256 } from "hash-wasm";
import { type Allocation, allocate } from "../calibration/allocation.js";
import { distilWeights } from "../calibration/distil.js";
import { isGramFile, StoredGrams } from "../calibration/grams/stored-grams.js";
import { blockThreads, defaultMemoryBytes } from "../calibration/memory.js";
import { suppliedOf } from "../calibration/operated-tensor.js";
import { operateLayers, type PipelineOptions } from "../calibration/pipeline.js";
import { type Donor, openDonor } from "../checkpoint/donor.js";
import { openOnnxEngine } from "../engine/onnx-products.js";
import { isPhysariumError, PhysariumError, refuseStopped } from "../errors.js";
import { DISTIL_DEFAULTS } from "../matching/distil.js";
import { MATCH_DEFAULTS, type MatchOptions } from "../matching/match-layer.js";
import type { PruneMethod, PruneTarget } from "../methods/method.js";
import { type BlockRunner, openBlocks } from "../methods/rows/runner.js";
import { refuseWithoutGradients } from "../probe/forward/layer-gradients.js";
import { LayerRunner } from "../probe/forward/layer-runner.js";
import type { ProtocolOptions } from "../probe/text/protocols.js";
import { TextTokenizer } from "../probe/text/tokenizer.js";
import type { ComparisonRecord, ComparisonRow } from "../record/comparison.js";
import { createDigester } from "../record/digest.js";
import { identityOf } from "../record/donor-identity.js";
import type { MatchRecord } from "../record/matching.js";
import { PHYSARIUM_VERSION } from "../version.js";
import { MemoryScorer, type Score } from "./memory-scorer.js";
import { peakMemory, resetPeakMemory } from "./peak-memory.js";
import { countShared, openTexts } from "./texts.js";

export { SELF_WRITTEN } from "./texts.js";

export interface ComparisonOptions {
  /** Text to score. */
  readonly text: string;
  /**
   * Text to calibrate on; the same path for a text that serves both, each part of it for one. Or a file of Grams
   * (`.safetensors`), which serves methods with one
   * stream. Without it the donor writes its own text.
   */
  readonly calibration?: string;
  readonly methods: readonly PruneMethod[];
  /** Leave out, with a word, a method that moves weights by gradient where that cannot be; else it is refused. */
  readonly whatCan?: boolean;
  readonly targets: readonly PruneTarget[];
  /** How both texts become sequences. */
  readonly protocol: ProtocolOptions;
  readonly samples: number;
  /** For experiments: use only so many of the samples. */
  readonly calibrate?: number;
  readonly seed: number;
  readonly minTokens?: number;
  readonly threads?: number;
  /** Where the products are computed; default `cpu`. */
  readonly device?: string;
  /** For experiments: share a sparsity between tensors other than evenly. */
  readonly allocation?: Allocation;
  /** Beside every method's row one whose layers were matched afterwards. */
  readonly thenMatched?: boolean;
  /** Beside every method's row one that was distilled afterwards, in so many steps. */
  readonly distil?: number;
  /** For experiments: another way of matching. */
  readonly match?: Partial<MatchOptions>;
  /** For experiments: other ways of the pipeline. */
  readonly pipeline?: Pick<PipelineOptions, "gramOf" | "weighTokens">;
  /** What an earlier run finished: its rows are taken over. Made another way it is refused (`USAGE_OUTPUT`). */
  readonly earlier?: ComparisonRecord;
  /** Called with the record so far after every row, for whoever keeps it. */
  readonly onRow?: (record: ComparisonRecord, row: ComparisonRow, isEarlier: boolean) => void | Promise<void>;
  readonly onProgress?: (words: string) => void;
  readonly signal?: AbortSignal;
}

/** Methods × targets on one donor, one table. Nothing is written; rows come through `onRow` as they are done. */
export async function compareMethods(donorPath: string, options: ComparisonOptions): Promise<ComparisonRecord> {
  const donor = await openDonor(resolve(donorPath));
  const tokenizer = await TextTokenizer.open(donor.path, { signal: options.signal });
  const threads = options.threads ?? availableParallelism();
  const chosen = { threads, ...(options.device === undefined ? {} : { device: options.device }) };
  const runner = await LayerRunner.open(donor, chosen);
  const engine = await openOnnxEngine(chosen);
  let blocks: BlockRunner | undefined;
  let scorer: MemoryScorer | undefined;
  let grams: StoredGrams | undefined;
  try {
    const methods = possibleMethods(runner, options);
    if (isGramFile(options.calibration)) grams = await openGrams(options.calibration, donor, { ...options, methods });
    const { text, from, take } = await openTexts(tokenizer, runner, options, grams);
    // What calibration asks of it later it knows; the models want its memory.
    tokenizer.close();
    const fingerprint = await sha256(
      JSON.stringify([
        PHYSARIUM_VERSION,
        await identityOf(donor, await createDigester()),
        text.sha256,
        from.sha256,
        options.protocol,
        options.samples,
        options.seed,
        options.minTokens ?? null,
      ]),
    );
    if (options.earlier !== undefined && options.earlier.fingerprint !== fingerprint) {
      throw new PhysariumError(
        "USAGE_OUTPUT",
        "the comparison that stands in --out was made with another donor, text, calibration, protocol, sample " +
          "count or seed, or by another version; give another --out",
        { earlier: options.earlier.fingerprint, fingerprint },
      );
    }
    const { sequences: all, scored } = await take();
    const sequences = all.slice(0, options.calibrate);
    const collected = grams?.record;
    options.onProgress?.(`scoring the donor on ${scored.length} sequences`);
    scorer = await MemoryScorer.open(runner, scored, options.signal);
    const dense = await scorer.scoreDonor();
    refuseOtherWeights(options.earlier, dense);
    const record: ComparisonRecord = {
      donor: donor.source.name,
      fingerprint,
      protocol: {
        ...text.prepared.record,
        windows: scored.length,
        documents: text.prepared.record.name === "documents" ? scored.length : 1,
        tokens: dense.tokens,
      },
      text: text.name,
      calibration: {
        text: from.name,
        samples: collected?.samples ?? sequences.length,
        tokens: collected?.tokens ?? sequences.reduce((sum, { length }) => sum + length, 0),
        seed: collected?.seed ?? options.seed,
        // Grams do not tell which sequences they are of; that they are of another text is seen above.
        ...(grams === undefined ? { scored_too: countShared(sequences, scored) } : {}),
      },
      dense: scoreFields(dense),
      rows: [],
    };
    // Rows that nobody asks for this time stay in the table.
    record.rows.push(...(options.earlier?.rows ?? []));
    for (const target of options.targets) {
      for (const method of methods) {
        for (const then of thensOf(method, options)) {
          const asked = rowKey(method, target, then, options);
          const known = record.rows.find((row) => isSameRow(row, asked));
          const row = known ?? { ...asked, ...(await measure(method, target, then)) };
          if (known === undefined) insertRow(record.rows, row);
          await options.onRow?.(record, row, known !== undefined);
        }
      }
    }
    return record;

    async function measure(
      method: PruneMethod,
      target: PruneTarget,
      then: ComparisonRow["then"],
    ): Promise<Omit<ComparisonRow, keyof RowKey>> {
      resetPeakMemory();
      // Threads are there for those who use them: idle ones take memory, too.
      if (method.worksInBlocks) {
        blocks ??= await openBlocks(blockThreads(runner, "full", defaultMemoryBytes(), threads), threads, engine);
      }
      const started = performance.now();
      const { allocation } = options;
      const shares =
        target.kind === "sparsity" && allocation !== undefined
          ? await allocate(allocation, runner, sequences, target.sparsity, undefined, options.signal)
          : undefined;
      const supplied = new Map<string, Float32Array>();
      let zeros = 0;
      let weights = 0;
      const heldOut: number[] = [];
      const isMatched = method.matches || then === "matched";
      for await (const { layer, tensors, match } of operateLayers(runner, grams ?? sequences, {
        ...options.pipeline,
        method: grams === undefined ? method : (method.withOneStream?.() ?? method),
        target: shares === undefined ? target : (name) => ({ kind: "sparsity", sparsity: shares.get(name)! }),
        engine,
        blocks,
        ...(isMatched ? { match: { ...MATCH_DEFAULTS, seed: options.seed, ...options.match } } : {}),
        signal: options.signal,
      })) {
        refuseStopped(options.signal);
        if (match !== undefined) heldOut.push(match.held_out_after);
        options.onProgress?.(
          `${method.name}${then === undefined ? "" : `, then ${then}`} ${targetWords(target)}: layer ${layer + 1} of ` +
            `${runner.layerCount}, ${((performance.now() - started) / 1000).toFixed(1)} s${matchWords(match)}`,
        );
        for (const tensor of tensors) {
          for (const [name, values] of suppliedOf(tensor)) supplied.set(name, values);
          zeros += tensor.zeros;
          weights += tensor.matrixCount * tensor.rows * tensor.cols;
        }
      }
      if (then === "distilled") {
        const { distil: steps = 0, seed, onProgress, signal } = options;
        const told = (made: number) => onProgress?.(`${method.name}, distilled: step ${made} of ${steps}`);
        await distilWeights(runner, sequences, supplied, { ...DISTIL_DEFAULTS, steps, seed }, told, signal);
      }
      const seconds = (performance.now() - started) / 1000;
      const peak = peakMemory();
      const score = await scorer!.score(supplied);
      return {
        ...scoreFields(score),
        damage: Math.log(score.perplexity / dense.perplexity),
        ...(heldOut.length === 0
          ? {}
          : { held_out_loss: heldOut.reduce((sum, loss) => sum + loss, 0) / heldOut.length }),
        sparsity_reached: zeros / weights,
        seconds,
        peak_rss_bytes: peak,
      };
    }
  } finally {
    await grams?.close();
    await scorer?.close();
    await blocks?.close();
    await engine.release();
    await runner.close();
  }
}

/**
 * Headers say the same of a model and of its fine-tuning; what the donor itself scores tells them apart. Sums in
 * another order, on another device or thread count, differ by far less than this.
 */
const SAME_SCORE = 1e-4;

function refuseOtherWeights(earlier: ComparisonRecord | undefined, dense: { readonly perplexity: number }): void {
  const before = earlier?.dense.perplexity;
  if (before === undefined || Math.abs(Math.log(dense.perplexity / before)) <= SAME_SCORE) return;
  throw new PhysariumError(
    "USAGE_OUTPUT",
    `the donor scores a perplexity of ${dense.perplexity}, the comparison that stands in --out has ${before}: it was ` +
      "made with other weights; give another --out",
    { earlier: before, now: dense.perplexity },
  );
}

/** What is done behind a method: nothing, and matching where it is asked for and is not the method's own part. */
function thensOf({ matches }: PruneMethod, { thenMatched, distil }: ComparisonOptions): ComparisonRow["then"][] {
  const matched = thenMatched && !matches ? (["matched"] as const) : [];
  return [undefined, ...matched, ...(distil === undefined ? [] : (["distilled"] as const))];
}

function matchWords(match: MatchRecord | undefined): string {
  if (match === undefined) return "";
  const [before, after] = [match.held_out_before, match.held_out_after].map((loss) => loss.toPrecision(3));
  return `, held-out error ${before} → ${after} in ${match.steps} steps at ${match.rate}`;
}

/**
 * The methods that this donor and calibration can have. Throws `DONOR_ARCHITECTURE`, `USAGE_CALIBRATION` where weights
 * are to move by gradient and cannot.
 */
function possibleMethods(runner: LayerRunner, options: ComparisonOptions): readonly PruneMethod[] {
  const { methods, thenMatched, distil, whatCan, onProgress } = options;
  const matching = methods.filter(({ matches }) => matches);
  if (distil !== undefined) refuseGradients(runner, options, "--distil", "pull back");
  if (thenMatched) refuseGradients(runner, options, "--then matched", "match");
  if (matching.length === 0) return methods;
  const names = matching.map(({ name }) => name).join(", ");
  try {
    refuseGradients(runner, options, names, "match");
    return methods;
  } catch (error) {
    if (!whatCan || !isPhysariumError(error)) throw error;
    onProgress?.(`left out: ${names}: ${error.message}`);
    return methods.filter(({ matches }) => !matches);
  }
}

function refuseGradients(
  runner: LayerRunner,
  { calibration }: ComparisonOptions,
  what: string,
  kind: "match" | "pull back",
): void {
  if (isGramFile(calibration)) {
    throw new PhysariumError(
      "USAGE_CALIBRATION",
      `${calibration}: ${what} runs the calibration text through every layer, and a file of Grams holds none; give a ` +
        "text",
    );
  }
  refuseWithoutGradients(runner, () => true, kind);
}

/** Grams in place of a calibration text. Throws `USAGE_CALIBRATION` where a method asks for more than they hold. */
async function openGrams(path: string, donor: Donor, options: ComparisonOptions): Promise<StoredGrams> {
  if (options.allocation !== undefined) {
    throw new PhysariumError("USAGE_CALIBRATION", `${path}: an allocation runs a text, and a file of Grams holds none`);
  }
  const grams = await StoredGrams.open(path, donor);
  const needy = options.methods.filter(({ needs }) => needs === "gram" || needs === "both").map(({ name }) => name);
  if (needy.length > 0) await grams.requireWhole(needy.join(", "));
  return grams;
}

export function targetWords(target: PruneTarget): string {
  if (target.kind === "pattern") return `${target.pattern.keep}:${target.pattern.of}`;
  return target.kind === "sparsity" ? `${Number((100 * target.sparsity).toFixed(2))} %` : "emergent";
}

function scoreFields({ perplexity, klMean, sameTop, tokens }: Score) {
  return { perplexity, kl_mean: klMean, same_top: sameTop, tokens };
}

/** Take over the rows of `others` that are not there, each in its group. */
export function mergeRows(rows: ComparisonRow[], others: readonly ComparisonRow[]): void {
  for (const other of others) {
    if (!rows.some((row) => isSameRow(row, other))) insertRow(rows, other);
  }
}

/** Behind the last row of its target, or at the end: the table stays in groups. */
function insertRow(rows: ComparisonRow[], row: ComparisonRow): void {
  const last = rows.findLastIndex(({ sparsity, pattern }) => sparsity === row.sparsity && pattern === row.pattern);
  rows.splice(last < 0 ? rows.length : last + 1, 0, row);
}

/** What was asked for: two rows that say the same of it are one. */
type RowKey = Pick<ComparisonRow, "method" | "then" | "trained" | "distil_steps" | "sparsity" | "pattern">;

function rowKey(
  { name: method }: PruneMethod,
  target: PruneTarget,
  then: ComparisonRow["then"],
  { distil }: ComparisonOptions,
): RowKey {
  return {
    method,
    ...(then === undefined ? {} : { then }),
    ...(then === "distilled" ? { trained: true as const, distil_steps: distil! } : {}),
    ...(target.kind === "pattern"
      ? { pattern: `${target.pattern.keep}:${target.pattern.of}` }
      : { sparsity: target.kind === "sparsity" ? target.sparsity : 0 }),
  };
}

function isSameRow(one: RowKey, other: RowKey): boolean {
  const parts = ["method", "then", "distil_steps", "sparsity", "pattern"] as const;
  return parts.every((part) => one[part] === other[part]);
}
