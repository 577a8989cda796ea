import * as v from "valibot";
import { FLOWS } from "../flow/flows.js";
import { PARAM_LIMITS } from "../flow/params.js";
import type { LedgerRecord } from "./ledger.js";
import { Count, Digest, FileName, Finite, Fraction, NotNegative, Time, Words } from "./read-json.js";
import { DistilSchema, FiguresSchema, MatchSchema } from "./report-schema.js";

/**
 * What a line of the ledger may hold, by its kind. Parameters keep to the limits of the command line: a ledger cannot
 * ask for what a user could not. Members that are not named here pass and are not used.
 */
const Survival = v.pipe(Finite, v.gtValue(PARAM_LIMITS.survival.above), v.maxValue(PARAM_LIMITS.survival.max));
const TargetSparsity = v.pipe(Finite, v.gtValue(0), v.ltValue(1));

function whole({ min, max }: { readonly min: number; readonly max: number }) {
  return v.pipe(v.number(), v.integer(), v.minValue(min), v.maxValue(max));
}

const Commit = v.pipe(v.string(), v.regex(/^[0-9a-f]{40}$/));

const Fingerprint = v.looseObject({
  physarium_version: Words,
  flow: v.picklist(FLOWS.map(({ name }) => name)),
  flow_version: Words,
  block_size: whole(PARAM_LIMITS.blockSize),
  n_iter: whole(PARAM_LIMITS.nIter),
  beta: v.pipe(Finite, v.gtValue(PARAM_LIMITS.beta.above), v.maxValue(PARAM_LIMITS.beta.max)),
  survival: v.nullable(Survival),
  target_sparsity: v.nullable(TargetSparsity),
  include: v.nullable(Words),
  exclude: v.nullable(Words),
  allow_non_finite: v.boolean(),
  activation: v.nullable(
    v.looseObject({
      target: v.looseObject({ kind: Words }),
      calibration: Words,
      samples: Count,
      window: v.nullable(Count),
      protocol: v.nullable(v.looseObject({})),
      seed: v.pipe(v.number(), v.safeInteger()),
      heal: v.boolean(),
      allocation: Words,
      gram: Words,
      memory_bytes: v.nullable(NotNegative),
    }),
  ),
  // In the order in which they are written: a record that was read is written again as it was.
  commit: v.optional(Commit),
  index_digest: v.optional(v.nullable(Digest)),
  config_digest: v.optional(v.nullable(Digest)),
  shards: v.array(
    // Version 1 told a donor by modification times, too; version 2 by content alone.
    v.looseObject({
      file: FileName,
      byte_length: Count,
      modified_ns: v.optional(Words),
      header_digest: Digest,
      content: v.optional(Words),
    }),
  ),
});

/** No number where a projection's outputs are 0: JSON has null for what 0/0 gives. */
const RelativeError = v.optional(
  v.pipe(
    v.nullable(Finite),
    v.transform((error) => error ?? undefined),
  ),
);

const Header = v.looseObject({
  kind: v.literal("header"),
  ledger_version: v.number(),
  at: Time,
  fingerprint: Fingerprint,
  donor: v.looseObject({
    path: Words,
    name: Words,
    total_size: Count,
    tensor_count: Count,
    shard_count: Count,
    model_weights: Count,
    modified_ns: v.optional(v.record(FileName, Words)),
  }),
});

const Tensor = v.looseObject({
  kind: v.literal("tensor"),
  at: Time,
  // As long as a safetensors header lets a name be.
  name: v.string(),
  shard: FileName,
  role: v.picklist(["target", "carried"]),
  dtype: Words,
  shape: v.array(Count),
  byte_offset: Count,
  byte_length: Count,
  digest: Digest,
  digest_matrix_bytes: Count,
  digest_piece_bytes: Count,
  layer: v.optional(v.pipe(v.number(), v.integer(), v.minValue(-1), v.maxValue(999_999_999))),
  projection: v.optional(v.string()),
  why: v.optional(Words),
  in_decoder: v.optional(v.literal(false)),
  stored_by_input: v.optional(v.literal(true)),
  weights: v.optional(Count),
  already_zero: v.optional(Count),
  killed: v.optional(Count),
  sparsity: v.optional(Fraction),
  tiles: v.optional(Count),
  tile_sparsity: v.optional(v.tuple([Fraction, Fraction])),
  non_finite: v.optional(Count),
  survivors_changed: v.optional(Count),
  revived: v.optional(Count),
  exchanged_share: v.optional(NotNegative),
  gram: v.optional(v.picklist(["whole", "tiles"])),
  expert_tokens: v.optional(v.array(Count)),
  evidence: v.optional(
    v.looseObject({
      probe: v.literal("signs"),
      output_error: NotNegative,
      survivor_cosine: Finite,
      signs_kept: Fraction,
      largest_row_gain: NotNegative,
      rows_turned: Count,
    }),
  ),
  match: v.optional(MatchSchema),
  trained: v.optional(v.literal(true)),
  distil: v.optional(DistilSchema),
  stages: v.optional(v.array(v.looseObject({ stage: Words, relative_error: RelativeError, seconds: NotNegative }))),
});

/** One schema a kind. */
export const RECORD_SCHEMAS: {
  readonly [Kind in LedgerRecord["kind"]]: v.GenericSchema<unknown, Extract<LedgerRecord, { kind: Kind }>>;
} = {
  header: Header,
  search: v.looseObject({
    kind: v.literal("search"),
    at: Time,
    target_sparsity: TargetSparsity,
    survival: Survival,
    expected_sparsity: Fraction,
  }),
  calibration: v.looseObject({
    kind: v.literal("calibration"),
    at: Time,
    text: v.nullable(Words),
    sha256: v.nullable(Words),
    samples: Count,
    window: Count,
    tokens: Count,
    seed: v.pipe(v.number(), v.safeInteger()),
    ids_sha256: Words,
    grams: v.optional(Words),
    target_digests: v.optional(v.record(FileName, Digest)),
  }),
  tensor: Tensor,
  shard: v.looseObject({
    kind: v.literal("shard"),
    at: Time,
    file: FileName,
    order: Count,
    seconds: NotNegative,
    killed_cumulative: Count,
    byte_length: Count,
    header_digest: Digest,
  }),
  side_file: v.looseObject({
    kind: v.literal("side_file"),
    at: Time,
    file: FileName,
    byte_length: Count,
    digest: Digest,
    from: v.optional(FileName),
    made: v.optional(v.literal("card")),
  }),
  warning: v.looseObject({ kind: v.literal("warning"), at: Time, code: Words, message: Words }),
  donor_hash: v.looseObject({
    kind: v.literal("donor_hash"),
    at: Time,
    file: FileName,
    byte_length: Count,
    state: v.pipe(v.string(), v.regex(/^[A-Za-z0-9+/=]{8,4096}$/)),
  }),
  donor_proof: v.looseObject({
    kind: v.literal("donor_proof"),
    at: Time,
    file: FileName,
    byte_length: Count,
    content: Words,
  }),
  figures: v.looseObject({ kind: v.literal("figures"), at: Time, figures: FiguresSchema }),
  finished: v.looseObject({
    kind: v.literal("finished"),
    at: Time,
    side_files: v.array(FileName),
    left_out: v.array(v.looseObject({ file: Words, reason: Words })),
  }),
};

/** A line of the ledger of any kind. */
export const RecordSchema = v.variant(
  "kind",
  Object.values(RECORD_SCHEMAS) as unknown as [typeof Header, typeof Tensor],
) as unknown as v.GenericSchema<unknown, LedgerRecord>;
