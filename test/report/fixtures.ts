import type { ComparisonNumbers } from "../../src/record/comparison-schema.js";
import type { QualityNumbers, WorthNumbers } from "../../src/record/report-input.js";
import type { SurgeryReport, TensorRow } from "../../src/record/surgery-report.js";

/** A repeatable generator (mulberry32). */
export function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

interface Model {
  readonly name: string;
  readonly layers: number;
  readonly hidden: number;
  readonly intermediate: number;
  readonly keyRows: number;
  readonly vocabulary: number;
  readonly tied: boolean;
  readonly experts?: number;
  readonly shards: number;
  /** Sparsity of a projection in a layer, before noise. */
  readonly sparsity: (layer: number, projection: string) => number;
  readonly secondsPerGigabyte: number;
}

const LOAM: Model = {
  name: "loam",
  layers: 4,
  hidden: 256,
  intermediate: 704,
  keyRows: 128,
  vocabulary: 2048,
  tied: true,
  shards: 4,
  sparsity: () => 0.2225,
  secondsPerGigabyte: 6,
};

/** Layers 0 to 2 as the seed's report describes them. */
const QWEN: Model = {
  name: "Qwen2.5-7B-Instruct",
  layers: 28,
  hidden: 3584,
  intermediate: 18944,
  keyRows: 512,
  vocabulary: 152064,
  tied: false,
  shards: 4,
  sparsity: (layer, projection) => {
    const mlp = projection.startsWith("mlp");
    if (layer === 1) return mlp ? 0.45 : 0.29;
    if (layer === 0) return mlp ? 0.355 : 0.25;
    if (layer === 2) return mlp ? 0.305 : 0.24;
    return (projection.includes("k_proj") ? 0.218 : 0.207) + 0.008 * Math.sin(layer / 3);
  },
  secondsPerGigabyte: 3.1,
};

const MOE: Model = {
  name: "moe-like",
  layers: 24,
  hidden: 2048,
  intermediate: 1408,
  keyRows: 2048,
  vocabulary: 151936,
  tied: false,
  experts: 60,
  shards: 8,
  sparsity: (layer, projection) => (projection.includes("experts") ? 0.235 : 0.215) + 0.0006 * layer,
  secondsPerGigabyte: 2.4,
};

export const loamLike = () => reportOf(LOAM);
export const qwenLike = () => reportOf(QWEN);
export const moeLike = (experts = 60) => reportOf({ ...MOE, experts });

/** A report of a model of these shapes, with every total counted from its rows. */
export function reportOf(model: Model): SurgeryReport {
  const next = random(model.layers * 1000 + model.hidden);
  const noise = () => next() + next() + next() - 1.5;
  const shapes: [string, number, number][] = [
    ["self_attn.q_proj", model.hidden, model.hidden],
    ["self_attn.k_proj", model.keyRows, model.hidden],
    ["self_attn.v_proj", model.keyRows, model.hidden],
    ["self_attn.o_proj", model.hidden, model.hidden],
  ];
  const mlp: [string, number, number][] = [
    ["gate_proj", model.intermediate, model.hidden],
    ["up_proj", model.intermediate, model.hidden],
    ["down_proj", model.hidden, model.intermediate],
  ];
  const rows: TensorRow[] = [];
  const add = (layer: number, path: string, projection: string, shape: number[]) => {
    const weights = shape.reduce((a, b) => a * b);
    const killed = Math.round(weights * (model.sparsity(layer, projection) + 0.006 * noise()));
    rows.push({
      name: `model.layers.${layer}.${path}.weight`,
      shard: `model-${String(1 + Math.floor((layer * model.shards) / model.layers)).padStart(5, "0")}-of-${String(model.shards).padStart(5, "0")}.safetensors`,
      dtype: "BF16",
      shape,
      layer,
      projection,
      weights,
      already_zero: 0,
      killed,
      sparsity: killed / weights,
      tiles: Math.ceil(shape[0] / 256) * Math.ceil(shape[1] / 256),
    });
  };
  for (let layer = 0; layer < model.layers; layer++) {
    for (const [path, ...shape] of shapes) add(layer, path, path, shape);
    if (model.experts === undefined) {
      for (const [kind, ...shape] of mlp) add(layer, `mlp.${kind}`, `mlp.${kind}`, shape);
    } else {
      for (let expert = 0; expert < model.experts; expert++) {
        for (const [kind, ...shape] of mlp) add(layer, `mlp.experts.${expert}.${kind}`, `mlp.experts.${kind}`, shape);
      }
      for (const [kind, rows_, cols] of mlp) {
        add(
          layer,
          `mlp.shared_expert.${kind}`,
          `mlp.shared_expert.${kind}`,
          kind === "down_proj" ? [rows_, cols * 4] : [rows_ * 4, cols],
        );
      }
    }
  }
  return withTotals(model, rows);
}

function withTotals(model: Model, rows: TensorRow[]): SurgeryReport {
  const sum = (list: TensorRow[], key: "weights" | "killed" | "already_zero" | "tiles") =>
    list.reduce((total, row) => total + row[key], 0);
  const targets = sum(rows, "weights");
  const carried = model.vocabulary * model.hidden * (model.tied ? 1 : 2) + model.hidden * (2 * model.layers + 1);
  const sparsities = rows.map((row) => row.sparsity);
  const lowest = (list: number[]) => list.reduce((a, b) => Math.min(a, b), Number.POSITIVE_INFINITY);
  const highest = (list: number[]) => list.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const groups = <K>(key: (row: TensorRow) => K) => {
    const map = new Map<K, TensorRow[]>();
    for (const row of rows) map.set(key(row), [...(rows.length > 20_000 ? [] : (map.get(key(row)) ?? [])), row]);
    if (rows.length > 20_000) {
      map.clear();
      for (const row of rows) {
        const list = map.get(key(row)) ?? [];
        list.push(row);
        map.set(key(row), list);
      }
    }
    return [...map];
  };
  let cumulative = 0;
  const order = [...groups((row) => row.shard)].sort(([a], [b]) => (a < b ? -1 : 1));
  const shards = order.map(([file, list], i) => {
    cumulative += sum(list, "killed");
    const seconds = (sum(list, "weights") * 2 * model.secondsPerGigabyte) / 1e9;
    return { file, order: i + 1, seconds, killed_cumulative: cumulative };
  });
  const totalSize = (targets + carried) * 2;
  const byLayer = groups((row) => row.layer).map(([layer, list]) => ({
    layer,
    tensors: list.length,
    weights: sum(list, "weights"),
    killed: sum(list, "killed"),
    already_zero: 0,
    sparsity: sum(list, "killed") / sum(list, "weights"),
    min: lowest(list.map((row) => row.sparsity)),
    max: highest(list.map((row) => row.sparsity)),
  }));
  const wall = shards.reduce((total, shard) => total + shard.seconds, 0) * 1.03;
  return {
    physarium_version: "0.1.0",
    flow: "magnitude",
    flow_version: "v1",
    params: { block_size: 256, n_iter: 30, beta: 2, survival: 0.355 },
    donor: {
      path: `models/${model.name}`,
      name: model.name,
      total_size: totalSize,
      tensor_count: rows.length + 2 * model.layers + (model.tied ? 2 : 3),
      shard_count: model.shards,
    },
    output: { path: `operated/${model.name}` },
    started_at: "2026-11-23T06:00:00.000Z",
    ended_at: new Date(Date.UTC(2026, 10, 23, 6) + Math.round(wall * 1000)).toISOString(),
    resumed: 0,
    totals: {
      model_weights: targets + carried,
      target_weights: targets,
      already_zero: 0,
      killed: sum(rows, "killed"),
      killed_of_target: sum(rows, "killed") / targets,
      killed_of_model: sum(rows, "killed") / (targets + carried),
      tensors: rows.length,
      min_sparsity: lowest(sparsities),
      mean_sparsity: sparsities.reduce((a, b) => a + b, 0) / rows.length,
      max_sparsity: highest(sparsities),
      failed_tensors: 0,
    },
    per_tensor: rows,
    per_projection: groups((row) => row.projection).map(([projection, list]) => ({
      projection,
      tensors: list.length,
      mean: list.reduce((total, row) => total + row.sparsity, 0) / list.length,
      min: lowest(list.map((row) => row.sparsity)),
      max: highest(list.map((row) => row.sparsity)),
      weights: sum(list, "weights"),
      killed: sum(list, "killed"),
    })),
    per_layer: byLayer,
    shards,
    coverage: { tiles: sum(rows, "tiles"), weights_processed: targets, weights_target: targets, fraction: 1 },
    warnings: [],
    side_files: [
      "config.json",
      "generation_config.json",
      "merges.txt",
      "model.safetensors.index.json",
      "tokenizer.json",
    ],
    left_out: [],
    figures: { drive_histogram: driveHistogram(), tile_maps: tileMaps(rows) },
    wall_seconds: wall,
    peak_rss_bytes: 143_200_000,
  };
}

/** Drives of Gaussian weights: |z| over its mean √(2/π), in 80 bins to 4. */
function driveHistogram() {
  const bins = 80;
  const edges = Array.from({ length: bins + 1 }, (_, i) => (4 * i) / bins);
  const density = (y: number) => Math.exp(-(y * y) / Math.PI);
  const counts = Array.from({ length: bins }, (_, i) => Math.round(300_000 * density((edges[i] + edges[i + 1]) / 2)));
  counts[bins - 1] += 4000;
  const total = counts.reduce((a, b) => a + b, 0);
  return { bin_edges: edges, counts, sampled_tiles: 96, sampled_weights: total, threshold: 0.35356 };
}

function tileMaps(rows: TensorRow[]) {
  const sorted = [...rows].sort((a, b) => b.sparsity - a.sparsity);
  const next = random(5);
  const map = (which: "most pruned" | "least pruned", row: TensorRow, stripes: number) => {
    const tileRows = Math.ceil(row.shape[0] / 256);
    const tileCols = Math.ceil(row.shape[1] / 256);
    const weak = Array.from({ length: tileCols }, () => (next() < 0.25 ? stripes : 0));
    return {
      which,
      name: row.name,
      block_size: 256,
      rows: tileRows,
      cols: tileCols,
      tile_rows: tileRows,
      tile_cols: tileCols,
      sparsity: Array.from(
        { length: tileRows * tileCols },
        (_, i) => row.sparsity + weak[i % tileCols] + 0.01 * (next() - 0.5),
      ),
    };
  };
  return [map("most pruned", sorted[0], 0.08), map("least pruned", sorted[sorted.length - 1], 0)];
}

export function integrity(ok = true): NonNullable<SurgeryReport["integrity"]> {
  const checks = [
    ["shards present", "4 of 4"],
    ["index parses", "model.safetensors.index.json, 339 entries"],
    ["total_size", "15,231,233,024"],
    ["tensors open", "339 of 339"],
    ["dtypes preserved", "339 of 339"],
    ["shapes preserved", "339 of 339"],
    ["header bytes equal", "4 of 4 shards"],
    ["side files copied", "5 of 5, byte for byte"],
    ["carried tensors byte-identical", "143 of 143"],
    ["survivors unchanged", "every bit of every living weight"],
    ["zeros recounted", "equal to the ledger"],
    ["tile coverage", "100 % of the target weights, tile by tile"],
    ["parity with the reference", "4,096 tiles"],
  ].map(([name, detail], i) => ({ name, ok: ok || i !== 9, detail }));
  return {
    verified_at: "2026-11-23T06:12:09.000Z",
    ok,
    checks,
    difference_count: ok ? 0 : 3,
    parity: { mode: "sample", tiles_checked: 4096, tiles_total: 100_352, weights_checked: 268_435_456 },
  };
}

/** A made-up `eval`: a loss that wanders along the text and a model that is a little worse everywhere. */
export function qualityNumbers(): QualityNumbers {
  const next = random(3);
  const curve = Array.from({ length: 120 }, (_, i) => {
    const donor = 2.9 + 0.35 * Math.sin(i / 9) + 0.5 * (next() - 0.5);
    return {
      token_start: i * 2000,
      token_end: (i + 1) * 2000,
      nll_model: donor + 0.05 + 0.04 * next(),
      nll_donor: donor,
    };
  });
  const edges = Array.from({ length: 61 }, (_, i) => -6 + i * 0.125);
  return {
    text: { name: "wiki.test.raw", bytes: 1_290_590, sha256: "0123456789abcdef".repeat(4) },
    protocol: { name: "wikitext", window: 2048, stride: 2048, windows: 118, tokens: 240_000 },
    engine: {
      name: "onnxruntime-node",
      version: "1.30.0",
      device: "cpu",
      weights_dtype: "BF16",
      compute_dtype: "F32",
      seconds: 1243.2,
      tokens_per_second: 386,
    },
    model: { name: "operated", perplexity: 18.93, mean_nll: 2.9408, stderr: 0.11, bits_per_byte: 0.8123 },
    donor: { name: "donor", perplexity: 17.91, mean_nll: 2.8854, stderr: 0.1, bits_per_byte: null },
    divergence: {
      kl_mean: 0.0712,
      kl_mean_stderr: 0.0009,
      kl_median: 0.0213,
      kl_p90: 0.171,
      kl_p99: 0.71,
      kl_max: 6.2,
      perplexity_ratio: 18.93 / 17.91,
      ln_ratio: 0.0554,
      ln_ratio_stderr: 0.0012,
      same_top: 0.842,
      same_top_stderr: 0.001,
      delta_p_rms: 0.061,
    },
    nll_curve: curve,
    kl_histogram: {
      log10_edges: edges,
      counts: edges.slice(1).map((edge) => Math.round(9000 * Math.exp(-((edge + 1.8) ** 2) / 1.6))),
      underflow: 812,
      overflow: 3,
    },
  };
}

export function worthNumbers(report: SurgeryReport): WorthNumbers {
  const { model_weights: weights, killed } = report.totals;
  const format = (name: string, bits: number, lossy: boolean, zeros: boolean) => ({
    format: name,
    bits_per_weight: bits,
    size: Math.round((weights * bits) / 8),
    lossy,
    holds_exact_zeros: zeros,
  });
  const formats = [
    format("as_is", 16, false, true),
    format("packed", 10.41, false, true),
    format("Q8_0", 8.5, true, true),
    format("Q6_K", 6.56, true, false),
    format("Q4_0", 4.5, true, true),
  ];
  return {
    packed_is: "estimated",
    sampled_weights: 67_108_864,
    weights,
    zero_weights: killed,
    sparsity: killed / weights,
    size_now: weights * 2,
    size_packed: Math.round((weights * 10.41) / 8),
    packed_fraction: 10.41 / 16,
    size_entropy_bound: Math.round((weights * 10.33) / 8),
    by_kind: report.per_projection.map((row) => ({
      kind: row.projection,
      tensors: row.tensors,
      weights: row.weights,
      sparsity: row.killed / row.weights,
      size_now: row.weights * 2,
      size_packed: row.weights * 1.29,
      packed_fraction: 0.645,
    })),
    formats,
    memories: [8, 12, 16, 24].map((gigabytes) => ({
      gigabytes,
      bytes: gigabytes * 2 ** 30,
      fits: formats.filter(({ size }) => size < gigabytes * 2 ** 30 * 0.85).map(({ format: name }) => name),
    })),
    reserved_fraction: 0.15,
  };
}

/** A comparison on the donor of `loamLike`: curves that cross, lie on one another at their ends, and 2:4. */
export function comparisonNumbers(): ComparisonNumbers {
  const damages: Record<string, readonly number[]> = {
    "magnitude, per tensor": [0.004, 0.019, 0.19, 1.03],
    "magnitude in tiles (v1, the default flow)": [0.003, 0.018, 0.19, 1.02],
    Wanda: [0.003, 0.016, 0.156, 0.85],
    SparseGPT: [-0.001, 0.0066, 0.093, 0.46],
    "activation flow (v2)": [-0.001, 0.004, 0.037, 0.162],
  };
  const names = ["magnitude", "tile-magnitude", "wanda", "sparsegpt", "activation"];
  const sparsities = [0.1, 0.25, 0.5, 0.7];
  const row = (method: string, title: string, damage: number) => ({
    ...{ method, title, damage, perplexity: 10.5 * Math.exp(damage), kl_mean: Math.abs(damage) },
  });
  return {
    donor: "loam",
    text: "loam-stories.txt",
    protocol: { name: "documents", window: 128, windows: 256, tokens: 32_512 },
    dense: { perplexity: 10.5 },
    rows: Object.entries(damages).flatMap(([title, values], at) => [
      ...values.map((damage, i) => ({
        ...row(names[at], title, damage),
        sparsity: sparsities[i],
        sparsity_reached: sparsities[i],
      })),
      { ...row(names[at], title, 3 * values[2]), pattern: "2:4", sparsity_reached: 0.5 },
    ]),
  };
}
