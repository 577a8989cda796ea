import { dirname, resolve } from "node:path";
import { attempt, type FileLayer, nodeFiles } from "../checkpoint/file-layer.js";
import { PhysariumError } from "../errors.js";
import { exists } from "./place.js";

/** Bytes a user may still write near `path`, which need not exist yet. */
export async function freeBytes(path: string, files: FileLayer = nodeFiles): Promise<number> {
  let current = resolve(path);
  while (!(await exists(current, files))) current = dirname(current);
  const { bavail, bsize } = await attempt("examining the disk of", current, () => files.statfs(current));
  return bavail * bsize;
}

/** Refuse before the first write if the disk of `output` cannot hold `neededBytes` more. Throws `USAGE_DISK_SPACE`. */
export async function requireDiskSpace(
  output: string,
  neededBytes: number,
  files: FileLayer = nodeFiles,
): Promise<void> {
  const folder = dirname(resolve(output));
  const free = await freeBytes(folder, files);
  if (free >= neededBytes) return;
  throw new PhysariumError(
    "USAGE_DISK_SPACE",
    `${folder}: the output takes ${neededBytes} bytes, the disk has ${free} free; free some space or choose ` +
      "another disk",
    { path: folder, neededBytes, freeBytes: free },
  );
}
