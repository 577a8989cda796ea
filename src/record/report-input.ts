import type { ComparisonNumbers } from "./comparison-schema.js";
import type { PartsNumbers } from "./parts.js";
import type { ChangedToken, LayerDamageRecord } from "./quality.js";
import type { SurgeryReport } from "./surgery-report.js";

/**
 * What the renderers take: `surgery.json`, with what later steps may have added. A section that is absent is said to be
 * missing.
 */
export type ReportInput = SurgeryReport & {
  readonly quality?: QualityNumbers | null;
  readonly worth?: WorthNumbers | null;
  readonly parts?: PartsNumbers | null;
  /** Written by `gate`. */
  readonly speech?: SpeechNumbers | null;
  /** Methods compared on the same donor, where somebody did that. */
  readonly comparison?: ComparisonNumbers | null;
};

/** What the gate heard: both models' greedy texts, and whether it accepted. */
export interface SpeechNumbers {
  readonly accepted: boolean;
  readonly prompts: readonly {
    readonly prompt: string;
    readonly same_prefix_tokens: number;
    readonly donor: { readonly text: string; readonly repetition: number };
    readonly model: { readonly text: string; readonly repetition: number };
  }[];
}

/** The part of the probe's `QualitySection` that the report shows; see there for units. */
export interface QualityNumbers {
  readonly text: { readonly name: string; readonly bytes: number; readonly sha256: string };
  readonly protocol: {
    readonly name: string;
    readonly window: number;
    readonly stride: number;
    readonly windows: number;
    readonly tokens: number;
  };
  readonly engine: {
    readonly name: string;
    readonly version: string;
    readonly device: string;
    readonly weights_dtype: string;
    readonly compute_dtype: string;
    readonly seconds: number;
    readonly tokens_per_second: number;
  };
  readonly model: ModelNumbers;
  readonly donor: ModelNumbers | null;
  readonly divergence: {
    readonly kl_mean: number;
    readonly kl_mean_stderr: number;
    readonly kl_median: number;
    readonly kl_p90: number;
    readonly kl_p99: number;
    readonly kl_max: number;
    readonly perplexity_ratio: number;
    readonly ln_ratio: number;
    readonly ln_ratio_stderr: number;
    readonly same_top: number;
    readonly same_top_stderr: number;
    readonly delta_p_rms: number;
  } | null;
  readonly nll_curve: readonly {
    readonly token_start: number;
    readonly token_end: number;
    readonly nll_model: number;
    readonly nll_donor: number | null;
  }[];
  readonly kl_histogram: {
    readonly log10_edges: readonly number[];
    readonly counts: readonly number[];
    readonly underflow: number;
    readonly overflow: number;
  } | null;
  readonly changed_tokens?: readonly ChangedToken[];
  readonly layer_damage?: readonly LayerDamageRecord[];
}

export interface ModelNumbers {
  readonly name: string;
  readonly perplexity: number;
  readonly stderr: number;
  readonly mean_nll: number;
  readonly bits_per_byte: number | null;
}

/** The part of the packer's `ZerosWorth` that the report shows; sizes are bytes of tensor data. */
export interface WorthNumbers {
  readonly packed_is: string;
  readonly sampled_weights: number;
  readonly weights: number;
  readonly zero_weights: number;
  readonly sparsity: number;
  readonly size_now: number;
  readonly size_packed: number;
  readonly packed_fraction: number;
  readonly size_entropy_bound: number;
  readonly by_kind: readonly {
    readonly kind: string;
    readonly tensors: number;
    readonly weights: number;
    readonly sparsity: number;
    readonly size_now: number;
    readonly size_packed: number;
    readonly packed_fraction: number;
  }[];
  readonly formats: readonly {
    readonly format: string;
    readonly bits_per_weight: number;
    readonly size: number;
    readonly lossy: boolean;
    readonly holds_exact_zeros: boolean;
  }[];
  readonly memories: readonly {
    readonly gigabytes: number;
    readonly bytes: number;
    readonly fits: readonly string[];
  }[];
  readonly reserved_fraction: number;
}
