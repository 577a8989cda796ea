import type { FileLayer } from "../checkpoint/file-layer.js";
import { combineDigests, type Digester } from "../record/digest.js";
import type { Ledger } from "../record/ledger.js";
import { piecesOf } from "../record/pieces.js";
import { openDonorFile } from "./donor-files.js";
import { digestTargets } from "./finite-scan.js";
import type { Plan, PlannedShard } from "./plan.js";

/**
 * Shards, of those touched or copied since a run was stopped, whose weights are still to the bit what that run read:
 * its ledger has a digest of their targets from before it calibrated, and of what was carried over the digests of the
 * copies. Nothing where it has none, as in ledgers of flows that calibrate nothing.
 */
export async function unchangedShards(
  plan: Plan,
  stopped: Ledger,
  touched: ReadonlySet<string>,
  digester: Digester,
  files: FileLayer,
): Promise<Set<string>> {
  const digests = stopped.calibration?.target_digests ?? {};
  const unchanged = new Set<string>();
  for (const shard of plan.shards) {
    const { file } = shard;
    if (!touched.has(file) || digests[file] === undefined) continue;
    if (await isUnchanged(plan, shard, digests[file], stopped, digester, files)) unchanged.add(file);
  }
  return unchanged;
}

async function isUnchanged(
  plan: Plan,
  { file, tensors }: PlannedShard,
  targets: string,
  stopped: Ledger,
  digester: Digester,
  files: FileLayer,
): Promise<boolean> {
  const source = await openDonorFile(plan, file, files);
  try {
    if ((await digestTargets(source, tensors, digester, () => {})) !== targets) return false;
    for (const { name, target, byteOffset, byteLength } of tensors) {
      if (target !== undefined) continue;
      const pieces: string[] = [];
      for (const piece of piecesOf(byteLength, undefined, plan.options.params.blockSize)) {
        const begin = byteOffset + piece.byteOffset;
        pieces.push(digester.digest(await source.read(begin, begin + piece.byteLength)));
      }
      if (combineDigests(digester, pieces) !== stopped.tensors.get(name)?.digest) return false;
    }
    return true;
  } finally {
    await source.close();
  }
}
