/** What matching a layer as a whole did (v3): every tensor of the layer bears the same record. */
export interface MatchRecord {
  /** The step whose weights were kept, 0 where none did better; and how many were made. */
  readonly steps: number;
  readonly steps_made: number;
  /** What the search found: of the size of a tensor's weights, the share that a first step moves them. */
  readonly rate: number;
  /** Mean of |out − target|² / |target|² of the layer's output over the calibration that taught. */
  readonly loss_before: number;
  readonly loss_after: number;
  /** The same of the part that was held out: it chose the step. */
  readonly held_out_before: number;
  readonly held_out_after: number;
}
