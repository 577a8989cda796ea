import type { Donor } from "../checkpoint/donor.js";
import { classifyTensor, EXCLUDED, NOT_INCLUDED } from "../checkpoint/projections.js";
import { findFlow, isDataFree } from "../flow/flows.js";
import type { Ledger, TensorRecord } from "../record/ledger.js";
import { isFloatDtype } from "../safetensors/dtypes.js";
import type { SafetensorsHeader } from "../safetensors/header.js";
import type { AuditedTensor } from "./audited-tensor.js";
import type { Findings } from "./verification.js";

/** Every name; what a tensor could be operated on for its dtype and shape. */
const ANY_NAME = /^/;

/**
 * The donor's tensors, their roles derived again from their structure. Where the operation was given patterns, its
 * ledger's records say which tensors they chose: a pattern out of a ledger is never run, it could run for ever. What
 * the records call a target must be one that surgery could take, and what they call carried over is compared byte for
 * byte.
 */
export function fromDonor(donor: Donor, ledger: Ledger, findings: Findings): AuditedTensor[] {
  const { include, exclude } = ledger.header.fingerprint;
  const flow = findFlow(ledger.header.fingerprint.flow);
  const needsInputs = flow !== undefined && !isDataFree(flow.name);
  const choice = include === null ? { needsInputs } : { include: ANY_NAME };
  const tensors = donor.shards.flatMap(({ file, tensors }) =>
    tensors.map((info) => {
      const record = ledger.tensors.get(info.name);
      const { target, inDecoder, reason } = classifyTensor(info, choice, donor.structure);
      const leftBy = patternOf(record, include, exclude);
      const isTarget = leftBy === undefined && target !== undefined;
      const why = inDecoder && !isTarget ? (leftBy ?? reason) : undefined;
      return { shard: file, info, target: isTarget ? target : undefined, inDecoder, why, record };
    }),
  );
  const count = tensors.filter(({ target }) => target !== undefined).length;
  const patterns = [include === null ? [] : [`--include ${include}`], exclude === null ? [] : [`--exclude ${exclude}`]];
  const said = patterns.flat().join(" ");
  findings.check(
    "targets derived",
    said === ""
      ? `${count} matrices of decoder layers, by structure`
      : `${count} tensors, named by the ledger for what it says was ${said}`,
  );
  return tensors;
}

/** By which pattern a tensor stays as it is, as its record says; only where there was such a pattern. */
function patternOf(
  record: TensorRecord | undefined,
  include: string | null,
  exclude: string | null,
): string | undefined {
  if (record === undefined || record.role === "target" || (include === null && exclude === null)) return undefined;
  const { why = include === null ? EXCLUDED : NOT_INCLUDED } = record;
  if (why === NOT_INCLUDED) return include === null ? undefined : why;
  return why === EXCLUDED && exclude !== null ? why : undefined;
}

/** The output's own tensors, their roles as the ledger has them. */
export function fromLedger(headers: ReadonlyMap<string, SafetensorsHeader>, ledger: Ledger): AuditedTensor[] {
  return [...headers].flatMap(([shard, { tensors }]) =>
    tensors.map((info) => {
      const record = ledger.tensors.get(info.name);
      const inDecoder = record?.role === "target" ? record.in_decoder !== false : record?.why !== undefined;
      return { shard, info, target: targetOf(record, info.byteLength), inDecoder, why: record?.why, record };
    }),
  );
}

function targetOf(record: TensorRecord | undefined, byteLength: number): AuditedTensor["target"] {
  if (record === undefined || record.role !== "target" || !isFloatDtype(record.dtype)) return undefined;
  const { shape, dtype } = record;
  if ((shape.length !== 2 && shape.length !== 3) || shape.includes(0)) return undefined;
  const [matrixCount, rows, cols] = shape.length === 3 ? shape : [1, ...shape];
  // A shape that the bytes do not have is told by the check of the records; here it would be gone through.
  if (matrixCount * rows * cols * (dtype === "F32" ? 4 : 2) !== byteLength) return undefined;
  const target = { dtype, matrixCount, rows, cols };
  return record.stored_by_input ? { ...target, storedByInput: true } : target;
}
