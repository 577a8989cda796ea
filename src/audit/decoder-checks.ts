import type { DecoderCoverage } from "../record/decoder-coverage.js";
import { type AuditedTensor, place } from "./audited-tensor.js";
import type { Findings } from "./verification.js";

/** Patterns of untouched matrices named in the check's line; all of them stand in the JSON. */
const NAMED = 3;

/** Which of the decoder's matrices were operated on and which were not, as the ledger says it. */
export function checkDecoder(tensors: readonly AuditedTensor[], decoder: DecoderCoverage, findings: Findings): void {
  const { weights, target_weights, fraction, untouched } = decoder;
  const name = "decoder coverage";
  const named = untouched.slice(0, NAMED).map((row) => `${row.tensors} × ${row.pattern} (${row.why})`);
  const more = untouched.length > NAMED ? `, and ${untouched.length - NAMED} more kinds` : "";
  findings.check(
    name,
    `${target_weights} of ${weights} weights in the matrices of decoder layers, ${(100 * fraction).toFixed(2)} %${
      named.length === 0 ? "" : `; untouched: ${named.join(", ")}${more}`
    }`,
  );
  for (const tensor of tensors) {
    const { record, why, target, inDecoder } = tensor;
    if (record === undefined) continue;
    if (target === undefined && record.why !== why)
      findings.differ(name, place(tensor), `the ledger says it stays because it is ${record.why}, it is ${why}`);
    if (target !== undefined && (record.in_decoder !== false) !== inDecoder)
      findings.differ(name, place(tensor), `the ledger counts it ${inDecoder ? "outside" : "in"} the decoder's layers`);
    if (target !== undefined && (record.stored_by_input ?? false) !== (target.storedByInput ?? false))
      findings.differ(name, place(tensor), "the ledger has it stored with its other side first");
  }
}
