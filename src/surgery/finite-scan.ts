import type { FileLayer } from "../checkpoint/file-layer.js";
import type { SourceFile } from "../checkpoint/model-source.js";
import { PhysariumError, refuseStopped } from "../errors.js";
import { magnitudeFormat, weightPatterns } from "../flow/magnitudes.js";
import { combineDigests, type Digester } from "../record/digest.js";
import { openDonorFile } from "./donor-files.js";
import type { Plan, PlannedTensor } from "./plan.js";

const SCAN_BYTES = 16 << 20;

/**
 * A NaN would go through the forward pass into everything behind it: all targets are read once before anything is
 * calibrated. Throws `DONOR_NON_FINITE`.
 * `onBytes` is told how many more were read.
 * returns  a digest of each shard's targets, as `digestTargets` takes it
 *
 * This is the only time that v2 reads a target's bytes: weights come to the methods through the engine's mapping, and
 * what a record counts is counted there.
 */
export async function scanTargets(
  plan: Plan,
  files: FileLayer,
  digester: Digester,
  onBytes: (bytes: number) => void,
  signal: AbortSignal | undefined,
): Promise<Record<string, string>> {
  const digests: Record<string, string> = {};
  for (const { file, tensors } of plan.shards) {
    const source = await openDonorFile(plan, file, files);
    try {
      digests[file] = await digestTargets(source, tensors, digester, (bytes, tensor, start) => {
        refuseStopped(signal);
        refuseNonFinite(bytes, tensor, start);
        onBytes(bytes.byteLength);
      });
    } finally {
      await source.close();
    }
  }
  return digests;
}

/** Digest of the bytes of a shard's targets, in their order; `onStretch` sees them, from `start` of the tensor on. */
export async function digestTargets(
  source: SourceFile,
  tensors: readonly PlannedTensor[],
  digester: Digester,
  onStretch: (bytes: Uint8Array, tensor: PlannedTensor, start: number) => void,
): Promise<string> {
  const stretches: string[] = [];
  for (const tensor of tensors) {
    if (tensor.target === undefined) continue;
    const { byteOffset, byteLength } = tensor;
    for (let start = 0; start < byteLength; start += SCAN_BYTES) {
      const bytes = await source.read(byteOffset + start, byteOffset + Math.min(start + SCAN_BYTES, byteLength));
      onStretch(bytes, tensor, start);
      stretches.push(digester.digest(bytes));
    }
  }
  return combineDigests(digester, stretches);
}

function refuseNonFinite(read: Uint8Array, { name, shard, target }: PlannedTensor, start: number): void {
  const { dtype, cols } = target!;
  const { magnitudeMask, infinity, bytes } = magnitudeFormat(dtype);
  const patterns = weightPatterns(read, dtype);
  for (let at = 0; at < patterns.length; at++) {
    if ((patterns[at] & magnitudeMask) < infinity) continue;
    const position = start / bytes + at;
    throw new PhysariumError(
      "DONOR_NON_FINITE",
      `${shard}: tensor "${name}" is NaN or infinite at row ${Math.floor(position / cols)}, column ` +
        `${position % cols}; the weights are damaged, and a forward pass would carry that into everything`,
      { shard, tensor: name },
    );
  }
}
