import { dirname } from "node:path";
import { attempt, type FileLayer, ioError, nodeFiles } from "../checkpoint/file-layer.js";
import { PhysariumError } from "../errors.js";
import { exists, listOrNothing, type OutputNames } from "./place.js";
import { syncFolder, writeSmallFile } from "./small-file.js";

/**
 * How a finished folder gets its name. One that it replaces steps aside first and goes last; a marker beside both says
 * so from before the first rename until after the last removal, so that the next run knows where a killed one stood.
 * All of it under the output's lock.
 */
export async function publishFolder(
  names: OutputNames,
  replaces: boolean,
  files: FileLayer = nodeFiles,
): Promise<void> {
  const { path, partialPath, replacedPath, replacesPath } = names;
  if (replaces) {
    if (await exists(replacedPath, files)) throw standsInTheWay(replacedPath);
    await writeSmallFile(replacesPath, `${replacedPath}\n`, files);
    await syncFolder(dirname(path), files);
    await attempt("renaming", path, () => files.rename(path, replacedPath));
  }
  try {
    await files.rename(partialPath, path);
  } catch (error) {
    if (replaces) await files.rename(replacedPath, path).catch(() => {});
    if (["ENOTEMPTY", "EEXIST", "ENOTDIR"].includes((error as NodeJS.ErrnoException).code ?? ""))
      throw takenMeanwhile(path);
    throw ioError("renaming", partialPath, error);
  }
  await syncFolder(dirname(path), files);
  if (replaces) await settleReplacement(names, files);
}

/** Whether a run was killed while it replaced the output: what waits under `replacedPath` is ours then. */
export function isReplacing({ replacesPath }: OutputNames, files: FileLayer = nodeFiles): Promise<boolean> {
  return exists(replacesPath, files);
}

/**
 * Bring a replacement to an end, in a place this run has locked: an output that waits beside an empty name gets it
 * back, one whose successor stands goes.
 */
export async function settleReplacement(names: OutputNames, files: FileLayer = nodeFiles): Promise<void> {
  const { path, replacedPath, replacesPath } = names;
  if (!(await isReplacing(names, files))) return;
  if (await exists(replacedPath, files)) {
    if (await exists(path, files)) {
      await attempt("removing", replacedPath, () => files.rm(replacedPath, { recursive: true, force: true }));
    } else {
      await attempt("renaming", replacedPath, () => files.rename(replacedPath, path));
    }
    await syncFolder(dirname(path), files);
  }
  await attempt("removing", replacesPath, () => files.rm(replacesPath, { force: true }));
}

/** Refuse before anything is done what `publishFolder` would refuse. Throws `USAGE_OUTPUT_EXISTS`. */
export async function refuseInTheWay({ replacedPath }: OutputNames, files: FileLayer = nodeFiles): Promise<void> {
  if ((await listOrNothing(replacedPath, files)) !== undefined) throw standsInTheWay(replacedPath);
}

export function takenMeanwhile(path: string): PhysariumError {
  return new PhysariumError(
    "USAGE_OUTPUT_EXISTS",
    `${path}: another run finished there meanwhile; see what it is, then replace it with --overwrite or choose ` +
      "another folder",
    { path },
  );
}

function standsInTheWay(replacedPath: string): PhysariumError {
  return new PhysariumError(
    "USAGE_OUTPUT_EXISTS",
    `${replacedPath}: an output that is replaced waits under this name, but something stands there already; move ` +
      "it away",
    { path: replacedPath },
  );
}
