import type { Evidence } from "../record/evidence.js";
import { place } from "./audited-tensor.js";
import { beyondHealing } from "./healing-limits.js";
import type { TensorRecount } from "./tensor-recount.js";
import type { Findings } from "./verification.js";

/**
 * A flow that heals moves survivors, so which bits they have now cannot be derived from the donor without doing the
 * calibration over again. What can be: how the output answers one input beside the donor, row by row. Those numbers are
 * computed from both folders, must be the ledger's, and must be such that healing explains them.
 */
export class HealingCheck {
  private tensors = 0;
  private unrecorded = 0;
  private readonly errors: number[] = [];

  constructor(
    private readonly findings: Findings,
    /** False where the ledger says that survivors kept the donor's bits. */
    private readonly heals: boolean,
  ) {
    this.describe();
  }

  check(recount: TensorRecount): void {
    const { tensor, evidence, wrong } = recount;
    const { record, target } = tensor;
    if (evidence === undefined || target === undefined) return;
    this.tensors++;
    this.errors.push(evidence.output_error);
    for (const fault of beyondHealing(evidence, target.matrixCount * target.rows))
      this.findings.differ(CHECK, place(tensor), fault);
    if (!this.heals && wrong !== (record?.revived ?? 0))
      this.findings.differ(CHECK, place(tensor), `${wrong} weights moved, but the operation was told not to heal`);
    if (record?.evidence === undefined) this.unrecorded++;
    else
      for (const [name, is] of Object.entries(evidence)) {
        const said = record.evidence[name as keyof Evidence];
        if (said !== is)
          this.findings.differ(CHECK, place(tensor), `the ledger says ${name} ${said}, computed again ${is}`);
      }
    this.describe();
  }

  private describe(): void {
    const [low, high] = this.errors.reduce(([a, b], e) => [Math.min(a, e), Math.max(b, e)], [Infinity, 0]);
    const range =
      this.tensors === 0 ? "" : `, relative output error on the probe input ${low.toFixed(3)} to ${high.toFixed(3)}`;
    const old =
      this.unrecorded === 0 ? "" : `; the ledger is older than this check and records none for ${this.unrecorded}`;
    this.findings.check(CHECK, `${this.tensors} targets within the limits of healing${range}${old}`);
  }
}

const CHECK = "healing bounded";
