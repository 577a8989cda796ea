import type { FileLayer } from "../checkpoint/file-layer.js";
import { isPhysariumError, PhysariumError } from "../errors.js";
import { freeBytes } from "../output/disk-space.js";
import type { Plan } from "./plan.js";
import { bytesWritten, resumeFlagsOf, type Workspace } from "./workspace.js";

/**
 * What stopped an operation, with what is kept of it and how to go on; errors that say so already come back as they
 * are.
 */
export async function explain(
  error: unknown,
  plan: Plan,
  { output }: Workspace,
  tensorsDone: number,
  files: FileLayer,
): Promise<unknown> {
  if (!isPhysariumError(error)) return error;
  const { path, partialPath: folder } = output;
  const resumeFlags = resumeFlagsOf(output);
  if (error.code === "STOPPED") {
    return new PhysariumError(
      "STOPPED",
      `${path}: stopped; ${tensorsDone} of ${plan.donor.tensorCount} tensors are done and kept in ${folder}; go on ` +
        `with ${resumeFlags}, or start over with --overwrite`,
      { tensorsDone },
    );
  }
  if (error.code === "IO_DISK_FULL") {
    const written = await bytesWritten(plan, folder, files).catch(() => 0);
    const free = await freeBytes(folder, files).catch(() => 0);
    const missing = Math.max(1, plan.bytesToWrite - written - free);
    const { path: file, operation, errno, byteOffset } = error.details;
    const where = byteOffset === undefined ? file : `${file}: byte ${byteOffset}`;
    return new PhysariumError(
      error.code,
      `${where}: ${operation} failed, the disk is full (${errno}); about ${missing} more bytes are needed; free ` +
        `them, then run again with ${resumeFlags} (${tensorsDone} of ${plan.donor.tensorCount} tensors are done)`,
      { ...error.details, missingBytes: missing },
      error,
    );
  }
  return error;
}
