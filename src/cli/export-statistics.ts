import { basename, join, resolve } from "node:path";
import {
  type CollectedGram,
  type CollectOptions,
  chooseSequences,
  collectNorms,
  writeGrams,
} from "../calibration/grams/collect.js";
import { modelFingerprint } from "../calibration/grams/gram-file.js";
import { isGramFile } from "../calibration/grams/stored-grams.js";
import { matrixPlaces, TensorStatistics } from "../calibration/grams/tensor-statistics.js";
import { readWhole } from "../checkpoint/model-source.js";
import { openOnnxEngine } from "../engine/onnx-products.js";
import { PhysariumError } from "../errors.js";
import { columnsInFile, type Link } from "../export/gguf/links.js";
import { ggufModelOf } from "../export/gguf/model.js";
import { type ImportanceEntry, readImatrix, writeImatrix } from "../export/imatrix.js";
import type { WeightStatistics } from "../export/statistics.js";
import { openTemporaryFolder } from "../output/temporary-folder.js";
import { inspectModel } from "../probe/forward/inspect-model.js";
import { prepareText } from "../probe/text/protocols.js";
import { openTextFile } from "../probe/text/text-file.js";
import { TextTokenizer } from "../probe/text/tokenizer.js";
import { PHYSARIUM_VERSION } from "../version.js";

/** What an export is told of its calibration. */
export interface StatisticsRequest {
  readonly imatrix?: string;
  /** A text, or Grams that `calibrate` wrote. */
  readonly calibration?: string;
  readonly samples: number;
  readonly window?: number;
  readonly signal: AbortSignal;
}

export interface OpenedStatistics {
  readonly statistics: WeightStatistics;
  close(): Promise<void>;
}

/** Statistics for an export by its flags; undefined where none was asked for. */
export async function openStatistics(model: string, request: StatisticsRequest): Promise<OpenedStatistics | undefined> {
  const { imatrix, calibration } = request;
  if (imatrix !== undefined && calibration !== undefined) {
    throw new PhysariumError("USAGE_ARGUMENT", "--imatrix and --calibration are two ways to say the same: give one");
  }
  if (imatrix !== undefined) {
    const matrix = await readImatrix(resolve(imatrix));
    return { statistics: { importance: async (link) => matrix.importance(link) }, close: async () => {} };
  }
  if (calibration === undefined) return undefined;
  const grams = await openGrams(model, resolve(calibration), request);
  const engine = await openOnnxEngine();
  return {
    statistics: {
      importance: async (link) => {
        const squares = await grams.statistics.importance(link.name, link.matrix);
        return squares?.length === link.rowLength ? columnsInFile(squares, link) : squares;
      },
      compensation: {
        gram: (link) => grams.statistics.gram(link.name, link.matrix),
        inputsOf: (link) => grams.statistics.inputsOf(link.name, link.matrix),
        multiply: (left, right, m, k, n) => engine.multiply(left, right, m, k, n),
      },
    },
    async close() {
      await grams.close();
      await engine.release();
    },
  };
}

/** Grams of a model: those of a file, or of a text that is run now into a file that goes with `close`. */
async function openGrams(model: string, path: string, request: StatisticsRequest) {
  const { donor, architecture, weights } = await inspectModel(model);
  const open = (file: string) =>
    TensorStatistics.open(file, donor, architecture, weights.prefix, [weights.head(architecture)]);
  if (isGramFile(path)) {
    const statistics = await open(path);
    return { statistics, close: () => statistics.close() };
  }
  const text = await openTextFile(path, { signal: request.signal });
  const window = request.window ?? Math.min(512, architecture.maxPositions);
  const prepared = await TextTokenizer.with(donor.path, { signal: request.signal }, (tokenizer) =>
    prepareText(text.read(), tokenizer, architecture.maxPositions, { window }),
  );
  const sequences = chooseSequences(prepared.sequences, request.samples, 0);
  const folder = await openTemporaryFolder("grams");
  try {
    const file = join(folder.path, "grams.safetensors");
    const { name, bos, bos_each, newlines } = prepared.record;
    const about = {
      modelFingerprint: await modelFingerprint(donor),
      modelName: donor.source.name,
      textName: basename(path),
      textSha256: text.sha256,
      protocol: JSON.stringify({ name, window, bos, bos_each, newlines }),
      seed: 0,
      physariumVersion: PHYSARIUM_VERSION,
    };
    await writeGrams(model, sequences, file, about, { head: true, signal: request.signal });
    const statistics = await open(file);
    return {
      statistics,
      async close() {
        await statistics.close();
        await folder.close();
      },
    };
  } catch (error) {
    await folder.close();
    throw error;
  }
}

/** Run texts and write an importance matrix; all that speaks against it is said before they run. */
export async function collectImatrix(
  model: string,
  sequences: readonly (readonly number[])[],
  path: string,
  dataset: string,
  options: CollectOptions,
): Promise<void> {
  const { donor, architecture, weights } = await inspectModel(model);
  const names = donor.shards.flatMap(({ tensors }) => tensors.map(({ name }) => name));
  const config = new TextDecoder().decode(await readWhole(donor.source, "config.json"));
  const { links } = ggufModelOf(config, "config.json", names);
  const places = matrixPlaces(architecture, weights.prefix, []);
  const about = { dataset, chunks: sequences.length, chunkSize: sequences[0]?.length ?? 0 };
  const collect = async () => importanceEntries(links, places, await collectNorms(model, sequences, options));
  await writeImatrix(path, collect, about, [donor.path, ...(options.inputs ?? [])]);
}

/**
 * Importance of every matrix of a layer whose inputs were collected, under its name in a GGUF file; an expert with the
 * tokens that it saw. As in llama.cpp the output matrix is not among them.
 */
function importanceEntries(
  links: readonly Link[],
  places: ReturnType<typeof matrixPlaces>,
  norms: readonly CollectedGram[],
): ImportanceEntry[] {
  const bySite = new Map(norms.map((each) => [`${each.layer} ${each.step}`, each]));
  const rows = new Map<string, CollectedGram[]>();
  for (const link of links) {
    if (link.ggufShape.length < 2 || !/^blk\..*\.weight$/.test(link.ggufName)) continue;
    const place = places(link.name, link.matrix);
    const norm = place === undefined ? undefined : bySite.get(`${place.layer} ${place.step}`);
    if (norm === undefined || norm.width !== link.rowLength) continue;
    rows.set(link.ggufName, [...(rows.get(link.ggufName) ?? []), { ...norm, mean: columnsInFile(norm.mean, link) }]);
  }
  return [...rows].map(([name, each]) => ({
    name,
    sums: Float32Array.from(each.flatMap(({ mean, tokenCount }) => [...mean].map((square) => square * tokenCount))),
    counts: Float32Array.from(each, ({ tokenCount }) => tokenCount),
  }));
}
