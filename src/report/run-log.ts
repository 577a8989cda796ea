import { printable } from "../errors.js";
import type { LedgerRecord, SideFileRecord, TensorRecord } from "../record/ledger.js";
import { parseRecords } from "../record/read-ledger.js";
import { renderCarriedLogLine, renderLogLine } from "./log-line.js";

/** `physarium/run.log`: the ledger, record by record, in lines a person reads. */
export function renderRunLog(ledgerText: string): string {
  const lines: string[] = [];
  for (const { record } of parseRecords(new TextEncoder().encode(ledgerText), "the ledger"))
    lines.push(`${printable(`${record.at}  ${renderRecord(record)}`)}\n`);
  return lines.join("");
}

function renderRecord(record: LedgerRecord): string {
  switch (record.kind) {
    case "header": {
      const { donor, fingerprint: f } = record;
      const aim = f.target_sparsity === null ? `survival ${f.survival}` : `target sparsity ${f.target_sparsity}`;
      return (
        `operation  ${donor.path}  ${donor.tensor_count} tensors in ${donor.shard_count} shards  flow ${f.flow} ` +
        `${f.flow_version}  block_size ${f.block_size}  n_iter ${f.n_iter}  beta ${f.beta}  ${aim}`
      );
    }
    case "search":
      return (
        `search  target sparsity ${record.target_sparsity}  found survival ${record.survival}  expected ` +
        `${record.expected_sparsity}`
      );
    case "calibration":
      return `calibration  ${record.text ?? "self-written"}  ${record.samples} samples  ${record.tokens} tokens`;
    case "tensor":
      return `tensor  ${renderTensor(record)}`;
    case "shard":
      return (
        `shard  ${record.file}  number ${record.order}  ${record.seconds.toFixed(3)} s  killed up to here ` +
        `${record.killed_cumulative}`
      );
    case "side_file":
      return `side file  ${record.file}  ${record.byte_length} bytes  ${originOf(record)}`;
    case "warning":
      return `warning  ${record.code}  ${record.message}`;
    case "donor_hash":
      return `donor hash  ${record.file}  its first ${record.byte_length} bytes`;
    case "donor_proof":
      return `donor proven  ${record.file}  ${record.byte_length} bytes  ${record.content}`;
    case "figures":
      return "figures  gathered from the files";
    case "finished":
      return "finished";
  }
}

function originOf({ from, made }: SideFileRecord): string {
  if (made !== undefined) return "written, the model card";
  return from === undefined ? "copied" : `copied, the donor's ${from}`;
}

function renderTensor(record: TensorRecord): string {
  if (record.role === "carried") return renderCarriedLogLine(record);
  const {
    name,
    shard,
    dtype,
    layer = -1,
    projection = "",
    weights = 0,
    already_zero = 0,
    killed = 0,
    sparsity = 0,
    tiles = 0,
  } = record;
  return renderLogLine({
    name,
    shard,
    dtype,
    shape: [...record.shape],
    layer,
    projection,
    weights,
    already_zero,
    killed,
    sparsity,
    tiles,
  });
}
