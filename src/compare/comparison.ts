import { availableParallelism } from "node:os";
import { resolve } from "node:path";
import { sha256 } from "hash-wasm";
import { allocate } from "../calibration/allocation.js";
import { distilWeights } from "../calibration/distil.js";
import { isGramFile, type StoredGrams } from "../calibration/grams/stored-grams.js";
import { suppliedOf } from "../calibration/operated-tensor.js";
import { operateLayers } from "../calibration/pipeline.js";
import { openDonor } from "../checkpoint/donor.js";
import { openOnnxEngine } from "../engine/onnx-products.js";
import { PhysariumError, refuseStopped } from "../errors.js";
import { DISTIL_DEFAULTS, sequencesThatDistil, sequencesToDistil } from "../matching/distil.js";
import { MATCH_DEFAULTS, type MatchOptions } from "../matching/match-layer.js";
import type { PruneMethod, PruneTarget } from "../methods/method.js";
import { type BlockRunner, openBlocks } from "../methods/rows/runner.js";
import { LayerRunner } from "../probe/forward/layer-runner.js";
import { bytesPredicted } from "../probe/text/predicted-bytes.js";
import { TextTokenizer } from "../probe/text/tokenizer.js";
import type { ComparisonRecord, ComparisonRow } from "../record/comparison.js";
import { createDigester } from "../record/digest.js";
import { identityOf } from "../record/donor-identity.js";
import type { MatchRecord } from "../record/matching.js";
import { PHYSARIUM_VERSION } from "../version.js";
import { Answers } from "./answers.js";
import { memoryWords, runnerWithin, shareMemory, threadsWithin } from "./memory.js";
import { MemoryScorer, type Score } from "./memory-scorer.js";
import type { ComparisonOptions } from "./options.js";
import { peakMemory, resetPeakMemory } from "./peak-memory.js";
import { openGrams, possibleMethods } from "./possible-methods.js";
import { insertRow, isSameRow, type RowKey, rowKey, thensOf } from "./rows.js";
import { countShared, countTokens, openTexts } from "./texts.js";

export type { ComparisonOptions } from "./options.js";
export { mergeRows } from "./rows.js";
export { SELF_WRITTEN } from "./texts.js";

/** A model that was operated on in memory, and what that took. */
interface OperatedModel {
  readonly supplied: Map<string, Float32Array>;
  /** Of each layer that was matched. */
  readonly heldOut: readonly number[];
  readonly sparsity: number;
  readonly seconds: number;
  readonly processorSeconds: number;
  readonly peak: number;
}

/** Methods × targets on one donor, one table. Nothing is written; rows come through `onRow` as they are done. */
export async function compareMethods(donorPath: string, options: ComparisonOptions): Promise<ComparisonRecord> {
  const donor = await openDonor(resolve(donorPath));
  const tokenizer = await TextTokenizer.open(donor.path, { signal: options.signal });
  const threads = options.threads ?? availableParallelism();
  const chosen = { threads, ...(options.device === undefined ? {} : { device: options.device }) };
  const opened = await LayerRunner.open(donor, chosen);
  let runner = opened;
  const engine = await openOnnxEngine(chosen);
  let blocks: BlockRunner | undefined;
  let scorer: MemoryScorer | undefined;
  let grams: StoredGrams | undefined;
  let kept: { method: PruneMethod; target: PruneTarget; operated: OperatedModel } | undefined;
  try {
    const methods = possibleMethods(runner, options);
    if (isGramFile(options.calibration)) grams = await openGrams(options.calibration, donor, { ...options, methods });
    const { distil: steps, seed } = options;
    const distil = steps === undefined ? undefined : { ...DISTIL_DEFAULTS, steps, seed };
    const textOptions =
      distil === undefined ? options : { ...options, fresh: (window: number) => sequencesToDistil(distil, window) };
    const { text, from, take, calibrationTokens, scoredTokens } = await openTexts(
      tokenizer,
      runner,
      textOptions,
      grams,
    );
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
        ...(options.answers === undefined ? [] : [options.answers]),
      ]),
    );
    if (options.earlier !== undefined && options.earlier.fingerprint !== fingerprint) {
      throw new PhysariumError(
        "USAGE_OUTPUT",
        "the comparison that stands in --out was made with another donor, text, calibration, protocol, sample " +
          "count, seed or number of answers, or by another version; give another --out",
        { earlier: options.earlier.fingerprint, fingerprint },
      );
    }
    const match: MatchOptions = { ...MATCH_DEFAULTS, seed: options.seed, ...options.match };
    const memory = shareMemory(
      opened,
      {
        calibrationTokens,
        scoredTokens,
        hasGrams: methods.some(({ needs }) => needs === "gram" || needs === "both"),
        match: options.thenMatched || methods.some(({ matches }) => matches) ? match : undefined,
        distils: options.distil !== undefined,
      },
      options.memoryBytes,
    );
    options.onProgress?.(memoryWords(memory));
    runner = runnerWithin(opened, memory);
    const { sequences: all, fresh, scored } = await take();
    const sequences = all.slice(0, options.calibrate);
    const predictedBytes = bytesPredicted(scored, tokenizer);
    const collected = grams?.record;
    options.onProgress?.(`scoring the donor on ${scored.length} sequences`);
    scorer = await MemoryScorer.open(runner, scored, options.signal);
    const dense = await scorer.scoreDonor();
    refuseOtherWeights(options.earlier, dense);
    const answers = options.answers === undefined ? undefined : await Answers.ask(runner, tokenizer, options);
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
        tokens: collected?.tokens ?? countTokens(sequences),
        seed: collected?.seed ?? options.seed,
        // Grams do not tell which sequences they are of; that they are of another text is seen above.
        ...(grams === undefined ? { scored_too: countShared(sequences, scored) } : {}),
      },
      dense: { ...scoreFields(dense, predictedBytes), ...answers?.donorFields() },
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
      // What was distilled was operated on for the row before: that is not done again.
      const isKept = then === "distilled" && kept?.method === method && kept.target === target;
      const operated = isKept ? kept!.operated : await operate(method, target, then);
      kept = then === undefined && options.distil !== undefined ? { method, target, operated } : undefined;
      const { supplied, heldOut } = operated;
      const taught = then === "distilled" && distil !== undefined ? sequencesThatDistil(sequences, fresh, distil) : [];
      const started = performance.now();
      const usage = process.cpuUsage();
      if (taught.length > 0 && distil !== undefined) {
        const told = (made: number) => options.onProgress?.(`${method.name}, distilled: step ${made} of ${steps}`);
        await distilWeights(runner, taught, supplied, distil, told, options.signal);
      }
      const seconds = operated.seconds + (performance.now() - started) / 1000;
      const processorSeconds = operated.processorSeconds + processorSecondsSince(usage);
      const peak = Math.max(operated.peak, peakMemory());
      const score = await scorer!.score(supplied);
      return {
        ...scoreFields(score, predictedBytes),
        ...(await answers?.fields(supplied)),
        damage: Math.log(score.perplexity / dense.perplexity),
        ...(heldOut.length === 0
          ? {}
          : { held_out_loss: heldOut.reduce((sum, loss) => sum + loss, 0) / heldOut.length }),
        sparsity_reached: operated.sparsity,
        ...(taught.length === 0 ? {} : { distil_tokens: countTokens(taught) }),
        seconds,
        processor_seconds: processorSeconds,
        peak_rss_bytes: peak,
      };
    }

    async function operate(
      method: PruneMethod,
      target: PruneTarget,
      then: ComparisonRow["then"],
    ): Promise<OperatedModel> {
      // Threads are there for those who use them: idle ones take memory, too.
      if (method.worksInBlocks) {
        blocks ??= await openBlocks(threadsWithin(runner, memory, threads), threads, engine);
      }
      const started = performance.now();
      const usage = process.cpuUsage();
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
      for await (const { layer, tensors, match: moved } of operateLayers(runner, grams ?? sequences, {
        ...options.pipeline,
        method: grams === undefined ? method : (method.withOneStream?.() ?? method),
        target: shares === undefined ? target : (name) => ({ kind: "sparsity", sparsity: shares.get(name)! }),
        engine,
        blocks,
        ...(isMatched ? { match } : {}),
        signal: options.signal,
      })) {
        refuseStopped(options.signal);
        if (moved !== undefined) heldOut.push(moved.held_out_after);
        options.onProgress?.(
          `${method.name}${then === undefined ? "" : `, then ${then}`} ${targetWords(target)}: layer ${layer + 1} of ` +
            `${runner.layerCount}, ${((performance.now() - started) / 1000).toFixed(1)} s${matchWords(moved)}`,
        );
        for (const tensor of tensors) {
          for (const [name, values] of suppliedOf(tensor)) supplied.set(name, values);
          zeros += tensor.zeros;
          weights += tensor.matrixCount * tensor.rows * tensor.cols;
        }
      }
      return {
        supplied,
        heldOut,
        sparsity: zeros / weights,
        seconds: (performance.now() - started) / 1000,
        processorSeconds: processorSecondsSince(usage),
        peak: peakMemory(),
      };
    }
  } finally {
    await grams?.close();
    await scorer?.close();
    await blocks?.close();
    await engine.release();
    await runner.close();
    if (runner !== opened) await opened.close();
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

function processorSecondsSince(earlier: NodeJS.CpuUsage): number {
  const { user, system } = process.cpuUsage(earlier);
  return (user + system) / 1e6;
}

function matchWords(match: MatchRecord | undefined): string {
  if (match === undefined) return "";
  const [before, after] = [match.held_out_before, match.held_out_after].map((loss) => loss.toPrecision(3));
  return `, held-out error ${before} → ${after} in ${match.steps} steps at ${match.rate}`;
}

export function targetWords(target: PruneTarget): string {
  if (target.kind === "pattern") return `${target.pattern.keep}:${target.pattern.of}`;
  return target.kind === "sparsity" ? `${Number((100 * target.sparsity).toFixed(2))} %` : "emergent";
}

function scoreFields({ perplexity, klMean, sameTop, tokens }: Score, bytes: number | undefined) {
  const bits = bytes === undefined ? {} : { bits_per_byte: (tokens * Math.log2(perplexity)) / bytes };
  return { perplexity, ...bits, kl_mean: klMean, same_top: sameTop, tokens };
}
