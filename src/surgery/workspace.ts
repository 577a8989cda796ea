import { dirname, join } from "node:path";
import { donorName } from "../checkpoint/donor.js";
import { attempt, type FileLayer } from "../checkpoint/file-layer.js";
import { PhysariumError } from "../errors.js";
import type { Digester } from "./digest.js";
import type { OnEvent } from "./events.js";
import { checkSameOperation, fingerprintOf } from "./fingerprint.js";
import {
  type HeaderRecord,
  LEDGER_FILE,
  LEDGER_VERSION,
  type Ledger,
  type LedgerRecord,
  LedgerWriter,
  RECORD_FOLDER,
  readLedger,
} from "./ledger.js";
import { freeBytes, inspectOutput, type Lock, type OutputFolder, takeLock, writeSmallFile } from "./output-folder.js";
import type { Plan } from "./plan.js";
import { type RunEntry, readRuns } from "./run-history.js";

export interface WorkspaceOptions {
  readonly outputPath: string;
  readonly resume: boolean;
  readonly overwrite: boolean;
}

/** The partial folder of an operation, locked by this run, with what an earlier run left in it. */
export interface Workspace {
  readonly output: OutputFolder;
  readonly lock: Lock;
  readonly header: HeaderRecord;
  /** What a stopped run recorded; absent for a new operation. */
  readonly stopped: Ledger | undefined;
  readonly earlierRuns: readonly RunEntry[];
}

export type Opened =
  | { readonly state: "ready"; readonly workspace: Workspace }
  | { readonly state: "already finished"; readonly output: OutputFolder };

/** A plan's own margin for directories, ledger and reports. */
const DISK_MARGIN = 16 << 20;

/**
 * Claim the place where the output is built. Everything that can be refused is refused here, before the first write.
 *
 * Throws `USAGE_OUTPUT_*`, `USAGE_UNFINISHED`, `USAGE_RESUME_MISMATCH`, `USAGE_DISK_SPACE`, `USAGE_LOCKED`.
 */
export async function openWorkspace(
  plan: Plan,
  options: WorkspaceOptions,
  digester: Digester,
  files: FileLayer,
  onEvent: OnEvent,
): Promise<Opened> {
  const output = await inspectOutput(options.outputPath, plan.donor.path, files);
  const fingerprint = await fingerprintOf(plan, digester, files);
  refuseOccupied(output, options, plan);

  if (output.occupied === "operated" && options.resume && output.partial === "nothing") {
    const finished = await readLedger(join(output.path, RECORD_FOLDER, LEDGER_FILE), files);
    if (finished !== undefined) checkSameOperation(finished.header.fingerprint, fingerprint, output.path);
    return { state: "already finished", output };
  }
  if (options.resume && output.partial === "nothing") {
    onEvent({ event: "note", message: "there is nothing to resume; starting from the beginning" });
  }
  const before =
    output.partial === "ours"
      ? await readLedger(join(output.partialPath, RECORD_FOLDER, LEDGER_FILE), files)
      : undefined;
  const resumes = options.resume && before !== undefined;
  if (resumes) checkSameOperation(before.header.fingerprint, fingerprint, output.path);
  await checkDiskSpace(plan, output, resumes ? before : undefined, files);

  const recordFolder = join(output.partialPath, RECORD_FOLDER);
  await attempt("creating", recordFolder, () => files.mkdir(recordFolder, { recursive: true }));
  const lock = await takeLock(output.partialPath, files);
  try {
    // Read again under the lock: another run may have gone on, or finished, in between.
    const ledgerPath = join(recordFolder, LEDGER_FILE);
    const stopped = options.resume ? await readLedger(ledgerPath, files) : undefined;
    if (stopped !== undefined) checkSameOperation(stopped.header.fingerprint, fingerprint, output.path);
    else await clearPartial(output.partialPath, files);
    const header: HeaderRecord = stopped?.header ?? newHeader(plan, fingerprint);
    const earlierRuns = stopped === undefined ? [] : await readRuns(output.partialPath, files);
    return { state: "ready", workspace: { output, lock, header, stopped, earlierRuns } };
  } catch (error) {
    await lock.release().catch(() => {});
    throw error;
  }
}

function refuseOccupied(output: OutputFolder, { resume, overwrite }: WorkspaceOptions, plan: Plan): void {
  const { path, partialPath } = output;
  if (output.occupied === "foreign") {
    throw new PhysariumError(
      "USAGE_OUTPUT_EXISTS",
      `${path}: the folder is not empty and holds no ${RECORD_FOLDER}/${LEDGER_FILE}, so it is none of ours and is never replaced; choose another output or empty it`,
      { path },
    );
  }
  if (output.partial === "foreign") {
    throw new PhysariumError(
      "USAGE_OUTPUT_EXISTS",
      `${partialPath}: the output is built there, but the folder holds something else (no ${RECORD_FOLDER}/${LEDGER_FILE}); move it away`,
      { path: partialPath },
    );
  }
  if (output.partial === "ours" && !resume && !overwrite) {
    const command = `physarium surgery ${plan.donor.path} ${path}`;
    throw new PhysariumError(
      "USAGE_UNFINISHED",
      `${path}: an unfinished run stands in ${partialPath}; go on with \`${command} --resume\` or start over with \`${command} --overwrite\``,
      { path },
    );
  }
  const finishedOne = output.occupied === "operated" && !overwrite;
  if (finishedOne && !(resume && output.partial === "nothing")) {
    throw new PhysariumError(
      "USAGE_OUTPUT_EXISTS",
      `${path}: there is a finished output; replace it with --overwrite or choose another folder`,
      { path },
    );
  }
}

async function checkDiskSpace(
  plan: Plan,
  output: OutputFolder,
  stopped: Ledger | undefined,
  files: FileLayer,
): Promise<void> {
  let done = 0;
  for (const record of stopped?.tensors.values() ?? []) done += record.byte_length;
  const needed = plan.bytesToWrite - done + DISK_MARGIN;
  // What is about to be cleared away is free again, but a ledger is too little to count on; only --resume counts.
  const free = await freeBytes(output.partialPath, files);
  if (free >= needed) return;
  throw new PhysariumError(
    "USAGE_DISK_SPACE",
    `${dirname(output.path)}: the output needs ${needed} bytes, ${free} are free; ${needed - free} are missing: free them or write to another disk`,
    { needed, free, missing: needed - free },
  );
}

function newHeader(plan: Plan, fingerprint: HeaderRecord["fingerprint"]): HeaderRecord {
  return {
    kind: "header",
    ledger_version: LEDGER_VERSION,
    at: new Date().toISOString(),
    fingerprint,
    donor: {
      path: plan.donor.path,
      name: donorName(plan.donor.path),
      total_size: plan.donor.totalSize,
      tensor_count: plan.donor.tensorCount,
      shard_count: plan.shards.length,
      model_weights: plan.donor.modelWeights,
    },
  };
}

/** Remove what a discarded run left, but not our lock. The ledger goes last: while it stands the folder is known to be ours. */
async function clearPartial(partialPath: string, files: FileLayer): Promise<void> {
  const recordFolder = join(partialPath, RECORD_FOLDER);
  for (const name of await attempt("listing", partialPath, () => files.readdir(partialPath))) {
    if (name !== RECORD_FOLDER) await remove(join(partialPath, name), files);
  }
  for (const name of await attempt("listing", recordFolder, () => files.readdir(recordFolder))) {
    if (name !== "lock" && name !== LEDGER_FILE) await remove(join(recordFolder, name), files);
  }
  await remove(join(recordFolder, LEDGER_FILE), files);
}

async function remove(path: string, files: FileLayer): Promise<void> {
  await attempt("removing", path, () => files.rm(path, { recursive: true, force: true }));
}

/** Throw an unfinished operation away, lock and all. */
export async function discardWorkspace({ output, lock }: Workspace, files: FileLayer): Promise<void> {
  await clearPartial(output.partialPath, files);
  await lock.release();
  await remove(output.partialPath, files);
}

/** Begin the ledger, or rewrite it to what still holds, whole and flushed before any weight is written. */
export async function startLedger(
  workspace: Workspace,
  records: readonly LedgerRecord[],
  files: FileLayer,
): Promise<LedgerWriter> {
  const path = join(workspace.output.partialPath, RECORD_FOLDER, LEDGER_FILE);
  const text = [workspace.header, ...records].map((record) => `${JSON.stringify(record)}\n`).join("");
  const bytes = new TextEncoder().encode(text);
  await writeSmallFile(path, bytes, files);
  return LedgerWriter.open(path, bytes.byteLength, files);
}
