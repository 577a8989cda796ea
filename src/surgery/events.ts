import type { MatchRecord } from "../record/matching.js";
/** What a run tells while it works; the command line draws it, `--json` prints it. */
export type SurgeryEvent =
  | {
      readonly event: "started";
      readonly donor: string;
      readonly output: string;
      readonly tensors: number;
      readonly bytes: number;
      readonly workers: number;
    }
  | { readonly event: "note"; readonly message: string }
  | { readonly event: "warning"; readonly code: string; readonly message: string }
  | {
      readonly event: "searched";
      readonly target_sparsity: number;
      readonly survival: number;
      readonly expected_sparsity: number;
    }
  | ({ readonly event: "progress" } & Progress)
  | {
      readonly event: "tensor";
      readonly name: string;
      readonly role: "target" | "carried";
      readonly killed: number;
      readonly sparsity: number;
    }
  | {
      readonly event: "shard";
      readonly file: string;
      readonly order: number;
      readonly seconds: number;
      readonly killed_cumulative: number;
    }
  | {
      readonly event: "layer";
      readonly layer: number;
      readonly layers: number;
      readonly seconds: Readonly<Record<"forward" | "gram" | "methods" | "match", number>>;
      /** v3: what matching the layer as a whole gained. */
      readonly match?: MatchRecord;
      /** At the pace of the layers operated on so far. */
      readonly seconds_left?: number;
      /**
       * Mean relative output error of the tensors operated on as selection leaves it, and after the last stage; absent
       * where there were none.
       */
      readonly loss_before?: number;
      readonly loss_after?: number;
      /** Where there were none: whether an earlier run had done them, or the layer has no target. */
      readonly is_done?: boolean;
    }
  | {
      readonly event: "distilled";
      /** Steps made, of so many. */
      readonly step: number;
      readonly steps: number;
      /** Mean KL from the donor of the step's tokens before it, nats. */
      readonly divergence: number;
      readonly seconds_left: number;
    }
  | { readonly event: "finishing"; readonly step: string };

/** How far a phase of an operation is; lengths in bytes. */
export interface Progress {
  readonly phase: "searching" | "checking" | "scanning" | "operating";
  readonly bytes_done: number;
  readonly bytes_total: number;
  readonly tensors_done: number;
  readonly tensors_total: number;
  /** Killed so far, of the target weights seen so far. */
  readonly killed: number;
  readonly target_weights_done: number;
}

export type OnEvent = (event: SurgeryEvent) => void;
