import { hostname } from "node:os";
import type { FileLayer } from "../checkpoint/file-layer.js";
import { isPhysariumError } from "../errors.js";
import { type FailedPart, writeManifest } from "./manifest.js";
import type { PartsFolder } from "./parts-folder.js";
import type { PartsPlan } from "./parts-plan.js";

/** Not worth another try by themselves although the system refused: somebody has to do something first. */
const NEED_SOMEBODY = ["IO_DISK_FULL", "IO_PERMISSION"];

/**
 * May the same part, started again without any change, get through? Yes for what the system failed at (a disk or mount
 * that did not answer), for a run that was stopped (preemption, a time limit), and for a part that another run holds.
 */
export function isWorthRetrying(error: unknown): boolean {
  if (isPhysariumError(error, "IO_")) return !NEED_SOMEBODY.includes(error.code);
  return isPhysariumError(error, "STOPPED") || isPhysariumError(error, "USAGE_LOCKED");
}

/** Leave beside the part why it is not done; best effort: the disk may be what failed. */
export async function recordFailure(
  folder: PartsFolder,
  { fingerprint }: PartsPlan,
  part: number,
  error: unknown,
  files: FileLayer,
): Promise<void> {
  const { code, message } = isPhysariumError(error) ? error : { code: "INTERNAL", message: String(error) };
  const failed: FailedPart = {
    fingerprint,
    part,
    host: hostname(),
    pid: process.pid,
    at: new Date().toISOString(),
    code,
    message,
    retry: isWorthRetrying(error),
  };
  await writeManifest(folder, "failed.json", failed, files).catch(() => {});
}
