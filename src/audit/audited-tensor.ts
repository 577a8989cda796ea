import type { TargetShape } from "../checkpoint/projections.js";
import type { DecoderTensor } from "../record/decoder-coverage.js";
import type { TensorRecord } from "../record/ledger.js";
import type { TensorInfo } from "../safetensors/header.js";

/** A tensor of the output under audit, with what the ledger says of it. */
export interface AuditedTensor {
  readonly shard: string;
  readonly info: TensorInfo;
  /** As derived from name and shape again, not as the ledger says. */
  readonly target: TargetShape | undefined;
  /** Counts among the matrices of the decoder's layers. */
  readonly inDecoder: boolean;
  /** Why a matrix of the decoder is no target. */
  readonly why: string | undefined;
  readonly record: TensorRecord | undefined;
}

/** How a difference names it. */
export function place({ shard, info }: AuditedTensor): string {
  return `${shard}: tensor "${info.name}"`;
}

/** As coverage counts it; undefined for what is no matrix of the decoder. */
export function asDecoderTensor({ info, inDecoder, why }: AuditedTensor): DecoderTensor | undefined {
  if (!inDecoder) return undefined;
  return { name: info.name, weights: info.shape.reduce((product, dimension) => product * dimension, 1), why };
}
