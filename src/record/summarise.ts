import { PHYSARIUM_VERSION } from "../version.js";
import { type DecoderTensor, decoderCoverage } from "./decoder-coverage.js";
import type { Ledger, TensorRecord } from "./ledger.js";
import type { RunEntry } from "./run-history.js";
import type { ActivationSection, LayerRow, ProjectionRow, SurgeryReport, TensorRow, Totals } from "./surgery-report.js";

/** All numbers of an operation, from its ledger alone. `ledger` must be finished for `ended_at` to mean anything. */
export function summarise(ledger: Ledger, runs: readonly RunEntry[], outputPath: string): SurgeryReport {
  const { header, finished, search } = ledger;
  const { fingerprint } = header;
  const rows = targetRows(ledger);
  const totals = addUp(rows, header.donor.model_weights);
  // What the tiles added up to, against what the shapes say.
  const targetWeights = sum(rows, (row) => row.shape.reduce((product, dimension) => product * dimension, 1));
  const tiles = rows.reduce((sum, row) => sum + row.tiles, 0);
  return {
    physarium_version: PHYSARIUM_VERSION,
    flow: fingerprint.flow,
    flow_version: fingerprint.flow_version,
    params: {
      block_size: fingerprint.block_size,
      n_iter: fingerprint.n_iter,
      beta: fingerprint.beta,
      survival: search?.survival ?? fingerprint.survival,
      ...(fingerprint.target_sparsity === null ? {} : { target_sparsity: fingerprint.target_sparsity }),
      ...(fingerprint.activation === null ? {} : { activation: fingerprint.activation }),
      ...(fingerprint.include === null ? {} : { include: fingerprint.include }),
      ...(fingerprint.exclude === null ? {} : { exclude: fingerprint.exclude }),
    },
    donor: {
      path: header.donor.path,
      name: header.donor.name,
      total_size: header.donor.total_size,
      tensor_count: header.donor.tensor_count,
      shard_count: header.donor.shard_count,
      ...(fingerprint.commit === undefined ? {} : { commit: fingerprint.commit }),
      ...proofOf(ledger),
    },
    output: { path: outputPath },
    started_at: runs[0]?.started_at ?? header.at,
    ended_at: finished?.at ?? header.at,
    resumed: Math.max(0, runs.length - 1),
    totals,
    per_tensor: rows,
    per_projection: perProjection(rows),
    per_layer: perLayer(rows),
    shards: [...ledger.shards.values()]
      .sort((a, b) => a.order - b.order)
      .map(({ file, order, seconds, killed_cumulative }) => ({ file, order, seconds, killed_cumulative })),
    coverage: {
      tiles,
      weights_processed: totals.target_weights,
      weights_target: targetWeights,
      fraction: targetWeights === 0 ? 0 : totals.target_weights / targetWeights,
    },
    decoder: decoderCoverage(decoderTensors(ledger)),
    warnings: ledger.warnings.map(({ code, message }) => ({ code, message })),
    side_files: [...(finished?.side_files ?? [])],
    ...cardOf(ledger),
    left_out: [...(finished?.left_out ?? [])],
    ...(fingerprint.activation === null ? {} : { activation: activationSection(ledger) }),
    ...(ledger.figures === undefined ? {} : { figures: ledger.figures }),
    wall_seconds: runs.reduce((sum, run) => sum + (run.wall_seconds ?? 0), 0),
    peak_rss_bytes: runs.reduce((most, run) => Math.max(most, run.peak_rss_bytes ?? 0), 0),
  };
}

/** The card of ours, where there is one. */
function cardOf({ cards, sideFiles }: Ledger): Pick<SurgeryReport, "model_card"> {
  if (cards.length === 0) return {};
  const kept = [...sideFiles.values()].find(({ from }) => from !== undefined);
  return { model_card: { file: cards[0].file, ...(kept === undefined ? {} : { donor_as: kept.file }) } };
}

/** Where the donor came over the wire: all its shards by the hashes that its source states, or nothing is said. */
function proofOf({ header, donorProofs }: Ledger): Pick<SurgeryReport["donor"], "proven"> {
  if (donorProofs.size === 0 || header.fingerprint.shards.some(({ file }) => !donorProofs.has(file))) return {};
  const kinds = new Set([...donorProofs.values()].map(({ content }) => content.split(":")[0]));
  return { proven: [...kinds].sort().join(", ") };
}

function activationSection(ledger: Ledger): ActivationSection {
  const { calibration } = ledger;
  const distil = targetRecords(ledger).find((record) => record.distil !== undefined)?.distil;
  return {
    ...(distil === undefined ? {} : { trained: true, distil }),
    ...(calibration === undefined
      ? {}
      : {
          calibration: {
            text: calibration.text,
            sha256: calibration.sha256,
            samples: calibration.samples,
            tokens: calibration.tokens,
            ...(calibration.grams === undefined ? {} : { grams: calibration.grams }),
          },
        }),
    tensors: targetRecords(ledger).map((record) => {
      const { name, projection = "", weights = 0, sparsity = 0, survivors_changed = 0, revived = 0 } = record;
      return {
        name,
        projection,
        weights,
        living: Math.round(weights * (1 - sparsity)),
        survivors_changed,
        revived,
        exchanged_share: record.exchanged_share ?? 0,
        ...(record.gram === undefined ? {} : { gram: record.gram }),
        ...(record.expert_tokens === undefined
          ? {}
          : { expert_tokens: [...record.expert_tokens], expert_inputs: inputsOf(record) }),
        ...(record.match === undefined ? {} : { match: record.match }),
        stages: [...(record.stages ?? [])],
      };
    }),
  };
}

/** Inputs of the matrices of a target. */
function inputsOf({ shape, stored_by_input }: TensorRecord): number {
  return shape[shape.length - (stored_by_input ? 2 : 1)];
}

/** The matrices of the decoder's layers: targets, and carried tensors that the ledger names as such. */
export function* decoderTensors(ledger: Ledger): Generator<DecoderTensor> {
  for (const { name, role, shape, why, in_decoder } of ledger.tensors.values()) {
    if (role === "target" ? in_decoder === false : why === undefined) continue;
    yield { name, weights: shape.reduce((product, dimension) => product * dimension, 1), why };
  }
}

/** A row for every target, in the order of the files. */
function targetRows(ledger: Ledger): TensorRow[] {
  return targetRecords(ledger).map((record) => ({
    name: record.name,
    shard: record.shard,
    dtype: record.dtype,
    shape: [...record.shape],
    layer: record.layer ?? -1,
    projection: record.projection ?? "",
    weights: record.weights ?? 0,
    already_zero: record.already_zero ?? 0,
    killed: record.killed ?? 0,
    sparsity: record.sparsity ?? 0,
    tiles: record.tiles ?? 0,
  }));
}

function targetRecords(ledger: Ledger): TensorRecord[] {
  const records: TensorRecord[] = [];
  for (const record of ledger.tensors.values()) if (record.role === "target") records.push(record);
  return records.sort((a, b) => (a.shard < b.shard ? -1 : a.shard > b.shard ? 1 : a.byte_offset - b.byte_offset));
}

function addUp(rows: readonly TensorRow[], modelWeights: number): Totals {
  const target = sum(rows, (row) => row.weights);
  const killed = sum(rows, (row) => row.killed);
  return {
    model_weights: modelWeights,
    target_weights: target,
    already_zero: sum(rows, (row) => row.already_zero),
    killed,
    killed_of_target: target === 0 ? 0 : killed / target,
    killed_of_model: modelWeights === 0 ? 0 : killed / modelWeights,
    tensors: rows.length,
    ...spread(rows),
    // A tensor that fails stops the operation, so a finished one has none; verify counts again.
    failed_tensors: 0,
  };
}

function spread(rows: readonly TensorRow[]): { min_sparsity: number; mean_sparsity: number; max_sparsity: number } {
  const { mean, min, max } = meanMinMax(rows);
  return { min_sparsity: min, mean_sparsity: mean, max_sparsity: max };
}

/** Over tensors, each counting once, as in the seed's report. */
function meanMinMax(rows: readonly TensorRow[]): { mean: number; min: number; max: number } {
  if (rows.length === 0) return { mean: 0, min: 0, max: 0 };
  return {
    mean: sum(rows, (row) => row.sparsity) / rows.length,
    min: rows.reduce((least, row) => Math.min(least, row.sparsity), 1),
    max: rows.reduce((most, row) => Math.max(most, row.sparsity), 0),
  };
}

function perProjection(rows: readonly TensorRow[]): ProjectionRow[] {
  return [...groupBy(rows, (row) => row.projection)]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([projection, group]) => ({
      projection,
      tensors: group.length,
      ...meanMinMax(group),
      weights: sum(group, (row) => row.weights),
      killed: sum(group, (row) => row.killed),
    }));
}

function perLayer(rows: readonly TensorRow[]): LayerRow[] {
  return [...groupBy(rows, (row) => row.layer)]
    .sort(([a], [b]) => a - b)
    .map(([layer, group]) => {
      const weights = sum(group, (row) => row.weights);
      const killed = sum(group, (row) => row.killed);
      const already_zero = sum(group, (row) => row.already_zero);
      const { min, max } = meanMinMax(group);
      return {
        layer,
        tensors: group.length,
        weights,
        killed,
        already_zero,
        // Not (killed + already_zero) / weights: what was zero may live again under v2.
        sparsity: weights === 0 ? 0 : sum(group, (row) => row.sparsity * row.weights) / weights,
        min,
        max,
      };
    });
}

function groupBy<K>(rows: readonly TensorRow[], key: (row: TensorRow) => K): Map<K, TensorRow[]> {
  const groups = new Map<K, TensorRow[]>();
  for (const row of rows) {
    const group = groups.get(key(row));
    if (group === undefined) groups.set(key(row), [row]);
    else group.push(row);
  }
  return groups;
}

function sum(rows: readonly TensorRow[], value: (row: TensorRow) => number): number {
  return rows.reduce((total, row) => total + value(row), 0);
}
