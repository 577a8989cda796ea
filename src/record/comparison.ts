import type { ProtocolRecord } from "./quality.js";

/** What `physarium compare --json` prints and keeps: plain data, hence snake_case. Nothing is rounded. */
export interface ComparisonRecord {
  donor: string;
  /**
   * Digest of everything but methods and targets that a row depends on: rows of another fingerprint are not taken over.
   */
  fingerprint: string;
  protocol: ProtocolRecord;
  text: string;
  calibration: {
    text: string;
    samples: number;
    tokens: number;
    seed: number;
    /** Scored sequences that calibrated, too; absent in records of earlier versions. */
    scored_too?: number;
  };
  dense: ScoreRecord;
  rows: ComparisonRow[];
}

/** Greedy answers of 64 tokens to prompts that the donor wrote; absent where none were asked for. */
export interface AnswerRecord {
  /** Share of answers whose first 8, 16, 32 tokens are the donor's. */
  same_answers_8: number;
  same_answers_16: number;
  same_answers_32: number;
  /** Mean share of an answer's runs of four tokens that stood in it before: a loop comes near 1. */
  repetition: number;
}

export interface ScoreRecord extends Partial<AnswerRecord> {
  perplexity: number;
  /** Absent where a token of the text stands for no bytes of its own, and in records of earlier versions. */
  bits_per_byte?: number;
  /** Mean KL(donor ‖ operated), nats. */
  kl_mean: number;
  /** Share of places where donor and operated model find the same token most likely. */
  same_top: number;
  /** Predictions counted. */
  tokens: number;
}

export interface ComparisonRow extends ScoreRecord {
  method: string;
  /** What was done to the method's output before it was scored: its layers matched, or the whole model distilled. */
  then?: "matched" | "distilled";
  /** The whole model's likelihoods moved it: in a class of its own. */
  trained?: true;
  /** In so many steps. */
  distil_steps?: number;
  /** Of the sequences it learnt from; absent in records of earlier versions. */
  distil_tokens?: number;
  /** Where layers were matched: mean over them of |out − donor's|² / |donor's|² on calibration that was held out. */
  held_out_loss?: number;
  /** Fraction asked for; absent where a pattern was. */
  sparsity?: number;
  /** `2:4` keeps 2 of each 4. */
  pattern?: string;
  /** ln perplexity − ln dense perplexity. */
  damage: number;
  /** Fraction of the targets equal to 0, counted. */
  sparsity_reached: number;
  /** Calibration and operation, without scoring. */
  seconds: number;
  /** Of all threads, in the same time; absent in records of earlier versions. */
  processor_seconds?: number;
  peak_rss_bytes: number;
}
