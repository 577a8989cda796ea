import type { TargetShape } from "../checkpoint/projections.js";
import type { TensorRecord } from "../record/ledger.js";
import type { TensorInfo } from "../safetensors/header.js";

/** A tensor of the output under audit, with what the ledger says of it. */
export interface AuditedTensor {
  readonly shard: string;
  readonly info: TensorInfo;
  /** As derived from name and shape again, not as the ledger says. */
  readonly target: TargetShape | undefined;
  readonly record: TensorRecord | undefined;
}

/** How a difference names it. */
export function place({ shard, info }: AuditedTensor): string {
  return `${shard}: tensor "${info.name}"`;
}
