import { dirname, join } from "node:path";
import {
  attempt,
  closeQuietly,
  closeWritten,
  type FileLayer,
  ioError,
  nodeFiles,
  type OpenFile,
  writeFully,
} from "../checkpoint/file-layer.js";
import type { SourceFile } from "../checkpoint/model-source.js";
import { PhysariumError } from "../errors.js";
import { CARD_FILE, copiedNames } from "../record/card.js";
import { type Digester, SIDE_FILE_PIECE_BYTES } from "../record/digest.js";
import type { SideFileRecord } from "../record/ledger.js";
import { type DonorPlace, isLocal, openDonorFile } from "./donor-files.js";
import type { Plan, PlannedShard } from "./plan.js";

/**
 * Create (or reopen) an output shard at its full length and carry the donor's header bytes over verbatim. Returns their
 * digest.
 */
export async function prepareShard(
  plan: DonorPlace,
  shard: PlannedShard,
  folder: string,
  digester: Digester,
  files: FileLayer = nodeFiles,
): Promise<string> {
  const path = join(folder, shard.file);
  const source = await openUnchanged(plan, shard, files);
  let header: Uint8Array;
  try {
    header = await source.read(0, shard.dataByteOffset);
  } finally {
    await source.close();
  }
  const file = await openForWriting(path, files);
  try {
    await writeFully(file, header, 0, path);
    await attempt("sizing", path, () => file.truncate(shard.byteLength));
  } catch (error) {
    await closeQuietly(file);
    throw error;
  }
  await closeWritten(file, path);
  return digester.digest(header);
}

async function openForWriting(path: string, files: FileLayer): Promise<OpenFile> {
  try {
    return await files.open(path, "r+");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw ioError("opening", path, error);
    return attempt("creating", path, () => files.open(path, "wx"));
  }
}

/** Make a file's bytes survive a power cut. */
export async function syncFile(path: string, files: FileLayer = nodeFiles): Promise<void> {
  const file = await attempt("opening", path, () => files.open(path, "r+"));
  try {
    await attempt("flushing", path, () => file.sync());
  } catch (error) {
    await closeQuietly(file);
    throw error;
  }
  await closeWritten(file, path);
}

/**
 * Copy the donor's side files byte for byte, flushed; returns their records. With a card of ours to come, the donor's
 * steps aside; what an earlier run left under a name of the other case goes.
 */
export async function copySideFiles(
  plan: Plan,
  folder: string,
  digester: Digester,
  hasCard: boolean,
  files: FileLayer = nodeFiles,
): Promise<SideFileRecord[]> {
  const records: SideFileRecord[] = [];
  const donorFiles = plan.sideFiles.map(({ file }) => file);
  const names = copiedNames(donorFiles, hasCard);
  const wanted = new Set(names.map(({ file }) => file));
  for (const { file } of [...copiedNames(donorFiles, !hasCard), { file: CARD_FILE }]) {
    const path = join(folder, file);
    if (!wanted.has(file)) await attempt("removing", path, () => files.rm(path, { force: true }));
  }
  for (const [at, { file, from }] of names.entries()) {
    const side = plan.sideFiles[at];
    const digest = await copyFile(plan, side, join(folder, file), digester, files);
    records.push({
      ...{ kind: "side_file", at: new Date().toISOString(), file, byte_length: side.byteLength, digest },
      ...(file === from ? {} : { from }),
    });
  }
  return records;
}

async function copyFile(
  plan: Plan,
  expected: { file: string; byteLength: number; modifiedNs: string },
  to: string,
  digester: Digester,
  files: FileLayer,
): Promise<string> {
  const opened = await openUnchanged(plan, expected, files);
  // Over the wire a file is proven when it is read whole, and only then.
  const source = isLocal(plan) ? opened : await inMemory(opened);
  try {
    const target = await attempt("creating", to, () => files.open(to, "w"));
    const chunks: string[] = [];
    try {
      const buffer = new Uint8Array(Math.min(SIDE_FILE_PIECE_BYTES, expected.byteLength));
      for (let begin = 0; begin < expected.byteLength; begin += SIDE_FILE_PIECE_BYTES) {
        const chunk = buffer.subarray(0, Math.min(SIDE_FILE_PIECE_BYTES, expected.byteLength - begin));
        await source.readInto(chunk, begin);
        await writeFully(target, chunk, begin, to);
        chunks.push(digester.digest(chunk));
      }
      await attempt("flushing", to, () => target.sync());
    } catch (error) {
      await closeQuietly(target);
      throw error;
    }
    await closeWritten(target, to);
    return digester.digest(new TextEncoder().encode(chunks.join("")));
  } finally {
    await source.close();
  }
}

async function inMemory(file: SourceFile): Promise<SourceFile> {
  const bytes = await file.read(0, file.byteLength);
  return {
    ...{ byteLength: file.byteLength, modifiedNs: file.modifiedNs },
    read: async (begin, end) => bytes.subarray(begin, end),
    readInto: async (buffer, byteOffset) => buffer.set(bytes.subarray(byteOffset, byteOffset + buffer.byteLength)),
    close: () => file.close(),
  };
}

async function openUnchanged(
  plan: DonorPlace,
  { file, byteLength, modifiedNs }: { file: string; byteLength: number; modifiedNs: string },
  files: FileLayer,
): Promise<SourceFile> {
  const source = await openDonorFile(plan, file, files);
  if (source.byteLength === byteLength && String(source.modifiedNs) === modifiedNs) return source;
  await source.close();
  throw donorChanged(join(plan.donor.path, file), file);
}

/** Every donor file must be as the plan saw it. Throws `DONOR_CHANGED`, naming the file. */
export async function checkDonorUnchanged(plan: Plan, files: FileLayer = nodeFiles): Promise<void> {
  // A commit does not change, and what came of it was proven.
  if (!isLocal(plan)) return;
  const sideFiles = plan.sideFiles.map((side) => ({ ...side, path: join(plan.donor.path, side.file) }));
  return checkFilesUnchanged([...plan.shards, ...sideFiles], files);
}

/** The same of some of them. */
export async function checkFilesUnchanged(
  expected: readonly Pick<PlannedShard, "path" | "file" | "byteLength" | "modifiedNs">[],
  files: FileLayer = nodeFiles,
): Promise<void> {
  for (const { path, file, byteLength, modifiedNs } of expected) {
    const stat = await attempt("examining", path, () => files.stat(path, { bigint: true }));
    if (Number(stat.size) !== byteLength || String(stat.mtimeNs) !== modifiedNs) throw donorChanged(path, file);
  }
}

function donorChanged(path: string, file: string): PhysariumError {
  return new PhysariumError(
    "DONOR_CHANGED",
    `${path}: the file changed while the donor was being operated on (size or modification time); wait until ` +
      `nothing writes to ${dirname(path)}, then start over with --overwrite`,
    { file },
  );
}

/** Names of the shards that lie in `folder` at full length: one that is gone or short holds nothing to go on from. */
export async function wholeShards(plan: Plan, folder: string, files: FileLayer): Promise<Set<string>> {
  const existing = new Set(await attempt("listing", folder, () => files.readdir(folder)));
  const whole = new Set<string>();
  for (const { file, byteLength } of plan.shards) {
    const path = join(folder, file);
    if (!existing.has(file)) continue;
    const { size } = await attempt("examining", path, () => files.stat(path));
    if (size === byteLength) whole.add(file);
  }
  return whole;
}
