import type { FileLayer } from "../checkpoint/file-layer.js";
import { PhysariumError, refuseStopped } from "../errors.js";
import { magnitudeFormat, weightPatterns } from "../flow/magnitudes.js";
import { openDonorFile } from "./donor-files.js";
import type { Plan } from "./plan.js";

const SCAN_BYTES = 16 << 20;

/**
 * A NaN would go through the forward pass into everything behind it: all targets are read once before anything is
 * calibrated. Throws `DONOR_NON_FINITE`.
 * `onBytes` is told how many more were read.
 *
 * This is the only time that v2 reads a target's bytes: weights come to the methods through the engine's mapping, and
 * what a record counts is counted there.
 */
export async function refuseNonFinite(
  plan: Plan,
  files: FileLayer,
  onBytes: (bytes: number) => void,
  signal: AbortSignal | undefined,
): Promise<void> {
  for (const { file, tensors } of plan.shards) {
    const source = await openDonorFile(plan, file, files);
    try {
      for (const { name, shard, target, byteOffset, byteLength } of tensors) {
        if (target === undefined) continue;
        const { magnitudeMask, infinity, bytes } = magnitudeFormat(target.dtype);
        for (let start = 0; start < byteLength; start += SCAN_BYTES) {
          refuseStopped(signal);
          const end = Math.min(start + SCAN_BYTES, byteLength);
          const patterns = weightPatterns(await source.read(byteOffset + start, byteOffset + end), target.dtype);
          for (let at = 0; at < patterns.length; at++) {
            if ((patterns[at] & magnitudeMask) < infinity) continue;
            const position = start / bytes + at;
            throw new PhysariumError(
              "DONOR_NON_FINITE",
              `${shard}: tensor "${name}" is NaN or infinite at row ${Math.floor(position / target.cols)}, column ` +
                `${position % target.cols}; the weights are damaged, and a forward pass would carry that into ` +
                "everything",
              { shard, tensor: name },
            );
          }
          onBytes(end - start);
        }
      }
    } finally {
      await source.close();
    }
  }
}
