import { join } from "node:path";
import { attempt, type FileLayer, FileSource, ioError, type OpenFile } from "../checkpoint/file-layer.js";
import { PhysariumError } from "../errors.js";
import { exists } from "../output/place.js";
import { syncFolder } from "../output/small-file.js";
import type { Digester } from "../record/digest.js";
import type { DonorPlace } from "../surgery/donor-files.js";
import type { OutputPlace } from "../surgery/flow-run.js";
import type { PlannedShard, PlannedTensor } from "../surgery/plan.js";
import { prepareShard, syncFile } from "../surgery/shard-files.js";
import type { PartStretch, PartTensors } from "./part-tensors.js";
import type { PartsFolder } from "./parts-folder.js";

/** A stretch's file: whole shards have their own name, others say where they begin. */
export function fileNameOf({ file, whole, first_byte }: Pick<PartStretch, "file" | "whole" | "first_byte">): string {
  return whole ? file : `${file}.from-${first_byte}`;
}

export function finishedPath(folder: PartsFolder, stretch: Pick<PartStretch, "file" | "whole" | "first_byte">): string {
  return join(stretch.whole ? folder.staged : folder.slices, fileNameOf(stretch));
}

export function unfinishedPath(folder: PartsFolder, stretch: PartStretch): string {
  return join(folder.unfinished, fileNameOf(stretch));
}

/**
 * The donor's shard must be what it was when the parts were prepared: another machine works on the rest of it. Throws
 * `DONOR_CHANGED`, naming what differs.
 */
export async function checkShard(
  { path }: PlannedShard,
  { file, byte_length, modified_ns, data_byte_offset, header_digest }: PartStretch,
  digester: Digester,
  files: FileLayer,
): Promise<void> {
  const source = await FileSource.open(path, files);
  try {
    const difference =
      source.byteLength !== byte_length
        ? `it had ${byte_length} bytes and has ${source.byteLength}`
        : String(source.modifiedNs) !== modified_ns
          ? "it was written to or copied since"
          : digester.digest(await source.read(0, data_byte_offset)) !== header_digest
            ? "it has another header"
            : "";
    if (difference === "") return;
    throw new PhysariumError(
      "DONOR_CHANGED",
      `${path}: the donor is not what it was when the parts were prepared: ${difference}; prepare again with ` +
        "--overwrite, or two donors would be mixed",
      { file },
    );
  } finally {
    await source.close();
  }
}

/**
 * Have a stretch's file at its full length under its unfinished name, with what an earlier run left in it. Returns
 * whether there was anything.
 */
export async function openStretch(
  folder: PartsFolder,
  donor: DonorPlace,
  shard: PlannedShard,
  stretch: PartStretch,
  digester: Digester,
  files: FileLayer,
): Promise<boolean> {
  const path = unfinishedPath(folder, stretch);
  const finished = finishedPath(folder, stretch);
  // Killed between the renames and the note that it is done, or done and damaged since: it is worked on again.
  if (await exists(finished, files)) await attempt("renaming", finished, () => files.rename(finished, path));
  const wasThere = await exists(path, files);
  if (stretch.whole) {
    await prepareShard(donor, shard, folder.unfinished, digester, files);
    return wasThere;
  }
  const file = await openOrCreate(path, wasThere, files);
  try {
    await attempt("sizing", path, () => file.truncate(stretch.end_byte - stretch.first_byte));
  } finally {
    await attempt("closing", path, () => file.close());
  }
  return wasThere;
}

function openOrCreate(path: string, isThere: boolean, files: FileLayer): Promise<OpenFile> {
  return attempt("opening", path, () => files.open(path, isThere ? "r+" : "wx"));
}

/**
 * Where the bytes of a part lie that is noted as done; `undefined` where they are not all there. A slice that finish
 * has joined already lies in its shard.
 */
export async function placesOfDone(
  folder: PartsFolder,
  { shards }: PartTensors,
  files: FileLayer,
): Promise<((tensor: PlannedTensor) => OutputPlace) | undefined> {
  const places = new Map<string, OutputPlace>();
  for (const stretch of shards) {
    const place = await placeOfStretch(folder, stretch, files);
    if (place === undefined) return undefined;
    for (const { name } of stretch.tensors) places.set(name, place);
  }
  return ({ name }) => places.get(name)!;
}

async function placeOfStretch(
  folder: PartsFolder,
  stretch: PartStretch,
  files: FileLayer,
): Promise<OutputPlace | undefined> {
  const own = finishedPath(folder, stretch);
  const { first_byte, end_byte, byte_length, file } = stretch;
  if ((await lengthOf(own, files)) === end_byte - first_byte) return { path: own, firstByte: first_byte };
  const joined = join(folder.staged, file);
  return (await lengthOf(joined, files)) === byte_length ? { path: joined, firstByte: 0 } : undefined;
}

/** Bytes of a file; `undefined` where there is none. */
export async function lengthOf(path: string, files: FileLayer): Promise<number | undefined> {
  try {
    return (await files.stat(path)).size;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw ioError("examining", path, error);
  }
}

/** Flush a part's files, then give them their finished names. */
export async function publishStretches(
  folder: PartsFolder,
  stretches: readonly PartStretch[],
  files: FileLayer,
): Promise<void> {
  for (const stretch of stretches) await syncFile(unfinishedPath(folder, stretch), files);
  for (const stretch of stretches) {
    const path = unfinishedPath(folder, stretch);
    await attempt("renaming", path, () => files.rename(path, finishedPath(folder, stretch)));
  }
  for (const path of [folder.staged, folder.slices]) await syncFolder(path, files);
}
