/** What `physarium diff A B` found, as plain data. */
export interface DiffRecord {
  readonly a: DiffSide;
  readonly b: DiffSide;
  readonly totals: DiffTotals;
  /** Every tensor of either, in the order of A, then those of B alone. */
  readonly tensors: readonly TensorDiff[];
  /** Files beside the weights (config.json, the tokenizer), by name. */
  readonly files: readonly { readonly file: string; readonly state: FileState }[];
}

export interface DiffSide {
  readonly path: string;
  readonly tensors: number;
  readonly weights: number;
  readonly bytes: number;
}

export type FileState = "equal" | "changed" | "only in A" | "only in B";

export type TensorState = FileState | "another shape" | "another dtype";

export interface DiffTotals {
  readonly equal: number;
  readonly changed: number;
  readonly only_in_a: number;
  readonly only_in_b: number;
  /** Changed in shape or in a dtype that holds no numbers we compare; counted in `changed`, too. */
  readonly not_compared: number;
  /** Weights whose value differs, over the tensors compared. */
  readonly weights_changed: number;
  readonly zeros_a: number;
  readonly zeros_b: number;
}

/** Numbers are `null` where there is nothing to compare: one side alone, another shape, no floats. */
export interface TensorDiff {
  readonly name: string;
  readonly state: TensorState;
  readonly dtype_a: string | null;
  readonly dtype_b: string | null;
  readonly shape_a: readonly number[] | null;
  readonly shape_b: readonly number[] | null;
  readonly weights: number;
  readonly weights_changed: number | null;
  readonly zeros_a: number | null;
  readonly zeros_b: number | null;
  /** Root of the mean square of b − a. */
  readonly rms: number | null;
  /** Largest |b − a|; `null` also where a NaN or an infinity stands on one side alone. */
  readonly max: number | null;
  /** ‖b − a‖ / ‖a‖. */
  readonly relative_error: number | null;
}
