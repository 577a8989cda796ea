import type { OnEvent, Progress } from "./events.js";
import type { PlannedTensor } from "./plan.js";

/** Counts what a phase of an operation has done, and tells it after every step. */
export class ProgressTally {
  private now!: { -readonly [key in keyof Progress]: Progress[key] };

  constructor(private readonly onEvent: OnEvent) {}

  /** Begin a phase that has `tensors` before it. */
  start(phase: Progress["phase"], tensors: readonly PlannedTensor[]): void {
    this.now = {
      phase,
      bytes_done: 0,
      bytes_total: tensors.reduce((sum, { byteLength }) => sum + byteLength, 0),
      tensors_done: 0,
      tensors_total: tensors.length,
      killed: 0,
      target_weights_done: 0,
    };
  }

  /** Count a tensor that an earlier run has finished. */
  takeOver(killed: number, weights: number): void {
    this.now.killed += killed;
    this.now.target_weights_done += weights;
  }

  addBytes(bytes: number): void {
    this.now.bytes_done += bytes;
    this.tell();
  }

  finishTensor({ target }: PlannedTensor, killed: number): void {
    this.now.tensors_done++;
    this.now.killed += killed;
    if (target !== undefined) this.now.target_weights_done += target.matrixCount * target.rows * target.cols;
    this.tell();
  }

  private tell(): void {
    this.onEvent({ event: "progress", ...this.now });
  }
}
