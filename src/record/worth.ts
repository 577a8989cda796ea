/**
 * "What the zeros are worth": the section of a report and of `surgery.json`, as plain data (JSON, hence snake_case).
 *
 * Sizes are bytes of tensor data without headers. A memory of "8 GB" is 8 × 2^30 bytes, as makers of cards count.
 */
export interface ZerosWorth {
  /** `exact`: sizes read from a packed folder. `estimated`: the packer's own code lengths on sampled bands. */
  packed_is: "exact" | "estimated";
  /** Weights that were looked at for the estimate; equal to `weights` where all were. */
  sampled_weights: number;
  /** Elements of all tensors. */
  weights: number;
  /** Elements equal to ±0, counted or, where sampled, scaled up. */
  zero_weights: number;
  /** zero_weights / weights. */
  sparsity: number;
  /** Bytes of all tensors as they lie in the donor's files. */
  size_now: number;
  size_packed: number;
  /** size_packed / size_now. */
  packed_fraction: number;
  /**
   * The least any coder could reach that codes zero-or-exponent without context and leaves signs and mantissas raw:
   * bytes, over the same weights as `size_packed`.
   */
  size_entropy_bound: number;
  /** One row a kind of tensor (`mlp.down_proj`, `embed_tokens`, …), largest first. */
  by_kind: KindWorth[];
  /** `as_is` and `packed` first, then the export formats. */
  formats: FormatWorth[];
  /** One row a memory, ascending. */
  memories: MemoryWorth[];
  /** The part of a memory that is left free for activations, the key-value cache and the engine itself. */
  reserved_fraction: number;
}

export interface KindWorth {
  kind: string;
  tensors: number;
  weights: number;
  zero_weights: number;
  sparsity: number;
  size_now: number;
  size_packed: number;
  packed_fraction: number;
}

/** `as_is` is the donor's own dtype; `packed` is `physarium pack`; the rest are names of GGUF types. */
export type FormatName = "as_is" | "packed" | "F16" | "BF16" | "Q8_0" | "Q6_K" | "Q4_K" | "Q4_0";

export interface FormatWorth {
  format: FormatName;
  /** size × 8 / weights over the whole model, vectors and fallbacks included. */
  bits_per_weight: number;
  size: number;
  /** False where the format gives back every weight bit for bit. */
  lossy: boolean;
  /** Whether a zero weight is still exactly zero after a trip through the format. */
  holds_exact_zeros: boolean;
}

export interface MemoryWorth {
  /** 8, 12, 16, 24. */
  gigabytes: number;
  bytes: number;
  /** The formats in which the weights fit, the reserve left free. */
  fits: FormatName[];
}
