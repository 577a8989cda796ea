import type { Ledger } from "../record/ledger.js";
import type { MatchRecord } from "../record/matching.js";
import { type AuditedTensor, place } from "./audited-tensor.js";
import type { Findings } from "./verification.js";

const CHECK = "matching recorded";

/**
 * v3 says of every target what matching its layer gained. That the numbers are true only the calibration could show;
 * that they can be, and are one record a layer, is seen here.
 */
export function checkMatching(tensors: readonly AuditedTensor[], ledger: Ledger, findings: Findings): void {
  if (ledger.header.fingerprint.flow !== "matched") return;
  const layers = new Map<number, string>();
  for (const tensor of tensors) {
    const { record, target } = tensor;
    if (target === undefined || record === undefined) continue;
    const { match, layer = -1 } = record;
    if (match === undefined) {
      findings.differ(CHECK, place(tensor), "the ledger does not say what matching its layer gained");
      continue;
    }
    for (const fault of faultsOf(match)) findings.differ(CHECK, place(tensor), fault);
    const words = JSON.stringify(match);
    const known = layers.get(layer) ?? words;
    layers.set(layer, known);
    if (known !== words)
      findings.differ(CHECK, place(tensor), `layer ${layer} was matched once, and two records say how`);
  }
  findings.check(CHECK, `${layers.size} layers, none worse than before on what was held out`);
}

function faultsOf({ steps, steps_made, held_out_before, held_out_after }: MatchRecord): string[] {
  const faults: string[] = [];
  if (!(steps <= steps_made)) faults.push(`the weights of step ${steps} were kept, and ${steps_made} were made`);
  // Written so that NaN fails.
  if (!(held_out_after <= held_out_before))
    faults.push(`the held-out error went from ${held_out_before} to ${held_out_after}, and no worse step is kept`);
  return faults;
}
