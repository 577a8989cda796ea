import * as v from "valibot";
import { Count, Finite, NotNegative, Time, Words } from "../../record/read-json.js";

/**
 * What admission found of a body: `farm-state/bodies/<body>/<generation>/admission.json`. A rejected one is kept, too,
 * without its files.
 */
const Loss = v.object({
  /** What the loss was measured against, and on how many tokens of what. */
  against: Words,
  text: Words,
  tokens: Count,
  kl_mean: Finite,
  kl_max: Finite,
  perplexity: NotNegative,
  donor_perplexity: NotNegative,
  perplexity_ratio: NotNegative,
  same_top: NotNegative,
});

const Load = v.object({
  /** Resident memory of the child with the whole context filled, at its highest. */
  peak_bytes: Count,
  vram_bytes: Count,
  load_seconds: NotNegative,
  /** Tokens a second by thread count. */
  tokens_per_second: v.array(v.object({ threads: Count, prompt: NotNegative, answer: NotNegative })),
  threads: Count,
});

const Check = v.object({ check: Words, passed: v.boolean(), found: Words });

const Form = v.object({
  form: Words,
  file: Words,
  byte_length: Count,
  sha256: v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/)),
  /** Digest over the ledger's digest, the form and the file's: what ties the file to the operation. */
  tied: v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/)),
  loss: v.nullable(Loss),
  load: v.nullable(Load),
  checks: v.array(Check),
  /** Why this form is not served; the others of the body may be. */
  rejected: v.nullable(Words),
});

export const AdmissionSchema = v.object({
  version: v.literal(1),
  body: Words,
  generation: Count,
  at: Time,
  physarium_version: Words,
  engine: Words,
  source: Words,
  /** SHA-256 of the source's ledger, or `null` where it was never operated on. */
  ledger_sha256: v.nullable(v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/))),
  /** Context and sequences that the load was measured with. */
  context: Count,
  sequences: Count,
  accepted: v.boolean(),
  /** Of the body as a whole: verify, the chat template. */
  checks: v.array(Check),
  forms: v.array(Form),
  warnings: v.array(Words),
});

export type Admission = v.InferOutput<typeof AdmissionSchema>;
export type AdmittedForm = v.InferOutput<typeof Form>;
export type LossRecord = v.InferOutput<typeof Loss>;
export type LoadRecord = v.InferOutput<typeof Load>;
export type CheckRecord = v.InferOutput<typeof Check>;

/** Forms that may be served. */
export function servable(admission: Admission): AdmittedForm[] {
  return admission.forms.filter(({ rejected }) => rejected === null);
}
