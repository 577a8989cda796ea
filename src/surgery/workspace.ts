import { dirname, join } from "node:path";
import { attempt, type FileLayer } from "../checkpoint/file-layer.js";
import { PhysariumError } from "../errors.js";
import { freeBytes } from "../output/disk-space.js";
import { type Lock, refuseLocked, takeLock } from "../output/lock.js";
import { inspectOutput, type OutputFolder } from "../output/operated-folder.js";
import { exists } from "../output/place.js";
import { isReplacing, settleReplacement, takenMeanwhile } from "../output/replacement.js";
import { removeTemporaries, writeSmallFile } from "../output/small-file.js";
import type { Digester } from "../record/digest.js";
import { modifiedTimesOf } from "../record/donor-identity.js";
import {
  type HeaderRecord,
  LEDGER_FILE,
  LEDGER_VERSION,
  type Ledger,
  type LedgerRecord,
  LedgerWriter,
  RECORD_FOLDER,
} from "../record/ledger.js";
import { recordPath } from "../record/open-record.js";
import { readLedger } from "../record/read-ledger.js";
import { type RunEntry, readRuns } from "../record/run-history.js";
import { unchangedShards } from "./donor-proof.js";
import type { OnEvent } from "./events.js";
import { checkSameOperation, fingerprintOf } from "./fingerprint.js";
import type { Plan } from "./plan.js";

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
  const inputs = inputsOf(plan);
  const output = await inspectOutput(options.outputPath, inputs, files);
  const fingerprint = await fingerprintOf(plan, digester, files);
  // Before anything is said about what stands there: it may be growing just now.
  await refuseLocked(output.partialPath, files);
  refuseOccupied(output, options);

  if (output.occupied === "operated" && options.resume && output.partial === "nothing") {
    const finished = await readLedger(recordPath(output.path, "ledger"), files);
    if (finished !== undefined) checkSameOperation(finished.header, fingerprint, plan.model, output.path);
    await clearRemains(output, files);
    return { state: "already finished", output };
  }
  if (options.resume && output.partial === "nothing") {
    onEvent({ event: "note", message: "there is nothing to resume; starting from the beginning" });
  }
  const before =
    output.partial === "ours" ? await readLedger(recordPath(output.partialPath, "ledger"), files, true) : undefined;
  const resumes = options.resume && before !== undefined;
  if (resumes) checkSameOperation(before.header, fingerprint, plan.model, output.path);
  await checkDiskSpace(plan, output, resumes, files);

  const parent = dirname(output.path);
  await attempt("creating", parent, () => files.mkdir(parent, { recursive: true }));
  const lock = await takeLock(output.partialPath, files);
  try {
    const { occupied } = await inspectOutput(options.outputPath, inputs, files);
    if (occupied !== output.occupied) throw takenMeanwhile(output.path);
    await settleReplacement(output, files);
    const recordFolder = join(output.partialPath, RECORD_FOLDER);
    await attempt("creating", recordFolder, () => files.mkdir(recordFolder, { recursive: true }));
    // Read again under the lock: another run may have gone on, or finished, in between.
    const ledgerPath = recordPath(output.partialPath, "ledger");
    let stopped = options.resume ? await readLedger(ledgerPath, files, true) : undefined;
    if (stopped !== undefined) {
      const touched = new Set(checkSameOperation(stopped.header, fingerprint, plan.model, output.path));
      const note = (shards: ReadonlySet<string>, what: string): void => {
        const message = `touched or copied since: ${[...shards].join(", ")}; ${what}`;
        if (shards.size > 0) onEvent({ event: "note", message });
      };
      const unchanged = await unchangedShards(plan, stopped, touched, digester, files);
      note(unchanged, "every weight there is what it was");
      for (const shard of unchanged) touched.delete(shard);
      note(touched, "what was made of it is made again");
      if (touched.size > 0) stopped = forget(stopped, touched);
    } else await clearPartial(output.partialPath, files);
    await removeTemporaries(recordFolder, files);
    // A resumed ledger takes the form of today, and the times of the donor as it is now.
    const header = newHeader(plan, fingerprint, stopped?.header.at);
    const earlierRuns = stopped === undefined ? [] : measureKilled(await readRuns(output.partialPath, files), stopped);
    return { state: "ready", workspace: { output, lock, header, stopped, earlierRuns } };
  } catch (error) {
    await lock.release().catch(() => {});
    throw error;
  }
}

/** What is read: nothing of it may be written to. */
function inputsOf({ model, options: { activation } }: Plan): string[] {
  const folder = model.source.localPath;
  return [
    ...(folder === undefined ? [] : [folder]),
    ...(activation?.calibration === undefined ? [] : [activation.calibration]),
  ];
}

/** Killed behind its last rename, a run leaves its lock and perhaps the output that it replaced. */
async function clearRemains(output: OutputFolder, files: FileLayer): Promise<void> {
  if (!(await exists(output.lockPath, files)) && !(await isReplacing(output, files))) return;
  const lock = await takeLock(output.partialPath, files);
  try {
    await settleReplacement(output, files);
    await removeTemporaries(join(output.path, RECORD_FOLDER), files);
  } finally {
    await lock.release();
  }
}

/** A run that was killed could not say how long it worked: at least until its last ledger record. */
function measureKilled(runs: readonly RunEntry[], { tensors, shards, calibration }: Ledger): RunEntry[] {
  const records = [...tensors.values(), ...shards.values(), ...(calibration === undefined ? [] : [calibration])];
  const last = records.reduce((latest, { at }) => Math.max(latest, Date.parse(at)), 0);
  return runs.map((run, position) => {
    if (run.wall_seconds !== undefined || position < runs.length - 1) return run;
    return { ...run, wall_seconds: Math.max(0, (last - Date.parse(run.started_at)) / 1000) };
  });
}

function refuseOccupied(output: OutputFolder, { resume, overwrite }: WorkspaceOptions): void {
  const { path, partialPath } = output;
  // A stopped run that replaces a finished output needs both flags to go on: --overwrite is the leave to replace.
  const resumeFlags = resumeFlagsOf(output);
  if (output.occupied === "foreign") {
    throw new PhysariumError(
      "USAGE_OUTPUT_EXISTS",
      `${path}: the folder is not empty and holds no ${RECORD_FOLDER}/${LEDGER_FILE}, so it is none of ours and is ` +
        "never replaced; choose another output or empty it",
      { path },
    );
  }
  if (output.partial === "foreign") {
    throw new PhysariumError(
      "USAGE_OUTPUT_EXISTS",
      `${partialPath}: the output is built there, but the folder holds something else (no ` +
        `${RECORD_FOLDER}/${LEDGER_FILE}); move it away`,
      { path: partialPath },
    );
  }
  if (output.partial === "ours" && !resume && !overwrite) {
    throw new PhysariumError(
      "USAGE_UNFINISHED",
      `${path}: an unfinished run stands in ${partialPath}; give the command that began it once more with ` +
        `${resumeFlags} to go on, or any command with --overwrite to throw it away and start over`,
      { path },
    );
  }
  const finishedOne = output.occupied === "operated" && !overwrite;
  if (finishedOne && !(resume && output.partial === "nothing")) {
    const advice =
      output.partial === "ours"
        ? `a run that would replace it was stopped: go on with ${resumeFlags}, start that run over with --overwrite`
        : "replace it with --overwrite";
    throw new PhysariumError(
      "USAGE_OUTPUT_EXISTS",
      `${path}: there is a finished output; ${advice} or choose another folder`,
      { path },
    );
  }
}

/** What to give surgery to go on with a stopped run. */
export function resumeFlagsOf({ occupied }: OutputFolder): string {
  return occupied === "operated" ? "--resume --overwrite" : "--resume";
}

async function checkDiskSpace(plan: Plan, output: OutputFolder, resumes: boolean, files: FileLayer): Promise<void> {
  // What is about to be cleared away is free again, but what a stopped run wrote is too little to count on; only
  // --resume counts.
  const written = resumes ? await bytesWritten(plan, output.partialPath, files) : 0;
  const needed = plan.bytesToWrite - written + DISK_MARGIN;
  const free = await freeBytes(output.partialPath, files);
  if (free >= needed) return;
  throw new PhysariumError(
    "USAGE_DISK_SPACE",
    `${dirname(output.path)}: the output needs ${needed} bytes${resumes ? " more" : ""}, ${free} are free; ` +
      `${needed - free} are missing: free them or write to another disk`,
    { needed, free, missing: needed - free },
  );
}

/** Bytes of the output that have their place on the disk already; shards are made at full length and fill up. */
export async function bytesWritten(plan: Plan, partialPath: string, files: FileLayer): Promise<number> {
  let written = 0;
  for (const { file, byteLength } of plan.shards) {
    const path = join(partialPath, file);
    if (!(await exists(path, files))) continue;
    const { blocks } = await attempt("examining", path, () => files.stat(path));
    written += Math.min(blocks * BLOCK_BYTES, byteLength);
  }
  return written;
}

/** The unit of `blocks` in a stat, whatever the file system's own (POSIX). */
const BLOCK_BYTES = 512;

/** The first record of an operation's ledger. */
export function newHeader(plan: Plan, fingerprint: HeaderRecord["fingerprint"], at?: string): HeaderRecord {
  return {
    kind: "header",
    ledger_version: LEDGER_VERSION,
    at: at ?? new Date().toISOString(),
    fingerprint,
    donor: {
      path: plan.donor.path,
      name: plan.model.source.name,
      total_size: plan.donor.totalSize,
      tensor_count: plan.donor.tensorCount,
      shard_count: plan.shards.length,
      model_weights: plan.donor.modelWeights,
      modified_ns: modifiedTimesOf(plan.model),
    },
  };
}

/**
 * A stopped run without what it made of some shards, and without what it found by reading all of the donor: their
 * weights may be others, and only doing it again mixes no two donors.
 */
function forget(stopped: Ledger, touched: ReadonlySet<string>): Ledger {
  const { tensors, shards } = stopped;
  return {
    ...stopped,
    search: undefined,
    calibration: undefined,
    // v2 calibrates anew, and a search may find another survival: then nothing that was made by the old one stays.
    tensors:
      stopped.search === undefined && stopped.calibration === undefined
        ? new Map([...tensors].filter(([, { shard }]) => !touched.has(shard)))
        : new Map(),
    shards: new Map([...shards].filter(([file]) => !touched.has(file))),
  };
}

/** Remove what a discarded run left. The ledger goes last: while it stands the folder is known to be ours. */
async function clearPartial(partialPath: string, files: FileLayer): Promise<void> {
  const recordFolder = join(partialPath, RECORD_FOLDER);
  for (const name of await attempt("listing", partialPath, () => files.readdir(partialPath))) {
    if (name !== RECORD_FOLDER) await remove(join(partialPath, name), files);
  }
  for (const name of await attempt("listing", recordFolder, () => files.readdir(recordFolder))) {
    if (name !== LEDGER_FILE) await remove(join(recordFolder, name), files);
  }
  await remove(join(recordFolder, LEDGER_FILE), files);
}

async function remove(path: string, files: FileLayer): Promise<void> {
  await attempt("removing", path, () => files.rm(path, { recursive: true, force: true }));
}

/** Let go of the lock; what is done stays. */
export function releaseWorkspace({ lock }: Workspace): Promise<void> {
  return lock.release();
}

/** Throw an unfinished operation away, lock and all. */
export async function discardWorkspace({ output, lock }: Workspace, files: FileLayer): Promise<void> {
  try {
    await clearPartial(output.partialPath, files);
    await remove(output.partialPath, files);
  } finally {
    await lock.release();
  }
}

/** Begin the ledger, or rewrite it to what still holds, whole and flushed before any weight is written. */
export async function startLedger(
  workspace: Workspace,
  records: readonly LedgerRecord[],
  files: FileLayer,
): Promise<LedgerWriter> {
  const path = recordPath(workspace.output.partialPath, "ledger");
  const text = [workspace.header, ...records].map((record) => `${JSON.stringify(record)}\n`).join("");
  const bytes = new TextEncoder().encode(text);
  await writeSmallFile(path, bytes, files);
  return LedgerWriter.open(path, bytes.byteLength, files);
}
