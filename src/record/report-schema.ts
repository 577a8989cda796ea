import * as v from "valibot";
import { ComparisonNumbersSchema } from "./comparison-schema.js";
import { Count, Finite, Fraction, NotNegative, Time, Words } from "./read-json.js";
import type { ReportInput } from "./report-input.js";
import type { Figures } from "./surgery-report.js";

/** What `surgery.json` must look like before anything of it is drawn, counted on or carried into another file. */

/** Data of the pictures. */
export const FiguresSchema: v.GenericSchema<unknown, Figures> = v.looseObject({
  drive_histogram: v.nullable(
    v.looseObject({
      bin_edges: v.array(Finite),
      counts: v.array(NotNegative),
      sampled_tiles: Count,
      sampled_weights: Count,
      threshold: Finite,
    }),
  ),
  tile_maps: v.array(
    v.looseObject({
      which: v.picklist(["most pruned", "least pruned"]),
      name: v.string(),
      block_size: Count,
      rows: Count,
      cols: Count,
      tile_rows: Count,
      tile_cols: Count,
      sparsity: v.array(Finite),
    }),
  ),
});

const Spread = { tensors: Count, weights: Count, killed: Count, min: Fraction, max: Fraction };

const Integrity = v.looseObject({
  verified_at: Words,
  ok: v.boolean(),
  checks: v.array(v.looseObject({ name: Words, ok: v.boolean(), detail: Words })),
  difference_count: Count,
  parity: v.looseObject({
    mode: Words,
    tiles_checked: Count,
    tiles_total: Count,
    weights_checked: Count,
    reference_tiles: v.optional(Count),
  }),
});

/** What distilling the model gained, as ledger and report hold it. */
export const DistilSchema = v.looseObject({
  steps: Count,
  tokens: v.optional(Count),
  kept: v.optional(Count),
  rate: NotNegative,
  held_out_before: NotNegative,
  held_out_after: NotNegative,
});

/** What matching a layer gained, as ledger and report hold it. */
export const MatchSchema = v.looseObject({
  steps: Count,
  steps_made: Count,
  rate: NotNegative,
  loss_before: NotNegative,
  loss_after: NotNegative,
  held_out_before: NotNegative,
  held_out_after: NotNegative,
});

const Activation = v.looseObject({
  calibration: v.optional(
    v.looseObject({
      text: v.nullable(Words),
      sha256: v.optional(v.nullable(Words)),
      samples: Count,
      tokens: Count,
      grams: v.optional(Words),
    }),
  ),
  trained: v.optional(v.literal(true)),
  distil: v.optional(DistilSchema),
  tensors: v.array(
    v.looseObject({
      name: v.string(),
      projection: v.string(),
      weights: Count,
      living: Count,
      survivors_changed: Count,
      revived: Count,
      exchanged_share: NotNegative,
      gram: v.optional(v.picklist(["whole", "tiles"])),
      expert_tokens: v.optional(v.array(Count)),
      expert_inputs: v.optional(Count),
      match: v.optional(MatchSchema),
      stages: v.array(
        v.looseObject({
          stage: Words,
          relative_error: v.optional(
            v.pipe(
              v.nullable(Finite),
              v.transform((error) => error ?? undefined),
            ),
          ),
          seconds: NotNegative,
        }),
      ),
    }),
  ),
});

const ModelNumbers = v.looseObject({
  name: Words,
  perplexity: Finite,
  stderr: Finite,
  mean_nll: Finite,
  bits_per_byte: v.nullable(Finite),
});

const Quality = v.looseObject({
  text: v.looseObject({ name: Words, bytes: Count, sha256: Words }),
  protocol: v.looseObject({ name: Words, window: Count, stride: Count, windows: Count, tokens: Count }),
  engine: v.looseObject({
    name: Words,
    version: Words,
    device: Words,
    weights_dtype: Words,
    compute_dtype: Words,
    seconds: NotNegative,
    tokens_per_second: NotNegative,
  }),
  model: ModelNumbers,
  donor: v.nullable(ModelNumbers),
  divergence: v.nullable(
    v.looseObject({
      kl_mean: Finite,
      kl_mean_stderr: Finite,
      kl_median: Finite,
      kl_p90: Finite,
      kl_p99: Finite,
      kl_max: Finite,
      perplexity_ratio: Finite,
      ln_ratio: Finite,
      ln_ratio_stderr: Finite,
      same_top: Finite,
      same_top_stderr: Finite,
      delta_p_rms: Finite,
    }),
  ),
  nll_curve: v.array(
    v.looseObject({ token_start: Count, token_end: Count, nll_model: Finite, nll_donor: v.nullable(Finite) }),
  ),
  kl_histogram: v.nullable(
    v.looseObject({ log10_edges: v.array(Finite), counts: v.array(Count), underflow: Count, overflow: Count }),
  ),
  changed_tokens: v.optional(
    v.array(
      v.looseObject({
        position: Count,
        before: v.string(),
        token: v.string(),
        kl: Finite,
        p_donor: Fraction,
        p_model: Fraction,
        top_donor: v.string(),
        top_model: v.string(),
      }),
    ),
  ),
  layer_damage: v.optional(v.array(v.looseObject({ layer: Count, kl_mean: Finite, tokens: Count }))),
});

const Spoken = v.looseObject({ text: v.string(), repetition: Fraction });

const Speech = v.looseObject({
  accepted: v.boolean(),
  prompts: v.array(v.looseObject({ prompt: v.string(), same_prefix_tokens: Count, donor: Spoken, model: Spoken })),
});

const Worth = v.looseObject({
  packed_is: Words,
  sampled_weights: Count,
  weights: Count,
  zero_weights: NotNegative,
  sparsity: Fraction,
  size_now: NotNegative,
  size_packed: NotNegative,
  packed_fraction: NotNegative,
  size_entropy_bound: NotNegative,
  by_kind: v.array(
    v.looseObject({
      kind: v.string(),
      tensors: Count,
      weights: NotNegative,
      sparsity: Fraction,
      size_now: NotNegative,
      size_packed: NotNegative,
      packed_fraction: NotNegative,
    }),
  ),
  formats: v.array(
    v.looseObject({
      format: Words,
      bits_per_weight: NotNegative,
      size: NotNegative,
      lossy: v.boolean(),
      holds_exact_zeros: v.boolean(),
    }),
  ),
  memories: v.array(v.looseObject({ gigabytes: NotNegative, bytes: NotNegative, fits: v.array(Words) })),
  reserved_fraction: Fraction,
});

const Parts = v.looseObject({
  part_count: Count,
  byte_length: Count,
  seconds: NotNegative,
  busy_seconds: NotNegative,
  join_seconds: NotNegative,
  parts: v.array(
    v.looseObject({
      part: Count,
      host: Words,
      started_at: Time,
      ended_at: Time,
      seconds: NotNegative,
      byte_length: Count,
      resumed_tensors: Count,
    }),
  ),
});

export const ReportSchema: v.GenericSchema<unknown, ReportInput> = v.looseObject({
  physarium_version: Words,
  flow: Words,
  flow_version: Words,
  params: v.looseObject({
    block_size: Count,
    n_iter: Count,
    beta: Finite,
    survival: v.nullable(Finite),
    target_sparsity: v.optional(Fraction),
    include: v.optional(Words),
    exclude: v.optional(Words),
  }),
  donor: v.looseObject({
    ...{ path: Words, name: Words, total_size: Count, tensor_count: Count, shard_count: Count },
    ...{ commit: v.optional(Words), proven: v.optional(Words) },
  }),
  output: v.looseObject({ path: Words }),
  started_at: Words,
  ended_at: Words,
  resumed: Count,
  totals: v.looseObject({
    model_weights: Count,
    target_weights: Count,
    already_zero: Count,
    killed: Count,
    killed_of_target: Fraction,
    killed_of_model: Fraction,
    tensors: Count,
    min_sparsity: Fraction,
    mean_sparsity: Fraction,
    max_sparsity: Fraction,
    failed_tensors: Count,
  }),
  per_tensor: v.array(
    v.looseObject({
      name: v.string(),
      shard: Words,
      dtype: Words,
      shape: v.array(Count),
      layer: v.pipe(v.number(), v.integer(), v.minValue(-1)),
      projection: v.string(),
      weights: Count,
      already_zero: Count,
      killed: Count,
      sparsity: Fraction,
      tiles: Count,
    }),
  ),
  per_projection: v.array(v.looseObject({ projection: v.string(), mean: Fraction, ...Spread })),
  per_layer: v.array(
    v.looseObject({
      layer: v.pipe(v.number(), v.integer(), v.minValue(-1)),
      already_zero: Count,
      sparsity: Fraction,
      ...Spread,
    }),
  ),
  shards: v.array(v.looseObject({ file: Words, order: Count, seconds: NotNegative, killed_cumulative: Count })),
  coverage: v.looseObject({
    tiles: Count,
    weights_processed: Count,
    weights_target: Count,
    fraction: NotNegative,
  }),
  decoder: v.optional(
    v.looseObject({
      weights: Count,
      target_weights: Count,
      fraction: Fraction,
      untouched: v.array(
        v.looseObject({ pattern: v.string(), tensors: Count, weights: Count, share: Fraction, why: Words }),
      ),
    }),
  ),
  warnings: v.array(v.looseObject({ code: Words, message: Words })),
  side_files: v.array(Words),
  model_card: v.optional(v.looseObject({ file: Words, donor_as: v.optional(Words) })),
  left_out: v.array(v.looseObject({ file: Words, reason: Words })),
  activation: v.optional(Activation),
  figures: v.optional(FiguresSchema),
  integrity: v.optional(Integrity),
  quality: v.nullish(Quality),
  worth: v.nullish(Worth),
  parts: v.nullish(Parts),
  speech: v.nullish(Speech),
  comparison: v.nullish(ComparisonNumbersSchema),
  wall_seconds: NotNegative,
  peak_rss_bytes: NotNegative,
});
