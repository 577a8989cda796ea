import { join } from "node:path";
import { attempt, type FileLayer, nodeFiles } from "../checkpoint/file-layer.js";
import { isPhysariumError, PhysariumError, refuseStopped } from "../errors.js";
import { inspectOutput } from "../output/operated-folder.js";
import { exists } from "../output/place.js";
import { publishFolder, settleReplacement } from "../output/replacement.js";
import { writeSmallFile } from "../output/small-file.js";
import { createDigester } from "../record/digest.js";
import { type LedgerRecord, LedgerWriter, RECORD_FOLDER } from "../record/ledger.js";
import { readReport, recordPath } from "../record/open-record.js";
import { type RunEntry, writeRuns } from "../record/run-history.js";
import type { SurgeryReport } from "../record/surgery-report.js";
import {
  completeOperation,
  type MeasureSections,
  type RenderCard,
  type RenderDocuments,
} from "../surgery/completion.js";
import type { OnEvent } from "../surgery/events.js";
import { checkSameOperation, fingerprintOf } from "../surgery/fingerprint.js";
import { openForSurgery } from "../surgery/open-for-surgery.js";
import { type Plan, planSurgery } from "../surgery/plan.js";
import { ProgressTally } from "../surgery/progress-tally.js";
import { type Gathered, gatherParts } from "./gather.js";
import { joinShards } from "./join.js";
import { takeSharedLock, watching } from "./part-lock.js";
import { finishLock, type PartsFolder, partsFolder } from "./parts-folder.js";
import { checkVersion, optionsOf, type PartsPlan, readPartsPlan } from "./parts-plan.js";
import { joinedFrom, noParts, runningParts } from "./status.js";
import { partsNumbers } from "./timeline.js";

/** How parts are joined into one output. */
export interface FinishOptions {
  readonly workers?: number;
  readonly onEvent?: OnEvent;
  readonly signal?: AbortSignal;
  readonly render?: RenderDocuments;
  readonly measure?: MeasureSections;
  /** The output's README.md; absent, it has the donor's. */
  readonly card?: RenderCard;
  readonly files?: FileLayer;
}

/** What joining ended with. */
export interface FinishResult {
  readonly outputPath: string;
  /** `already finished`: the output stands under its name, and nothing was done. */
  readonly state: "finished" | "already finished";
  readonly report: SurgeryReport;
}

/**
 * Make one output of all parts: every manifest and every byte is looked at, shards that were cut are joined, the ledger
 * and the report are those of one machine. Stopped or killed, it is simply run again.
 *
 * Throws `USAGE_PARTS*`, `USAGE_LOCKED`, `USAGE_OUTPUT_EXISTS`, `VERIFY_PART`, `DONOR_*`, `IO_*`, `STOPPED`.
 */
export async function finishParts(outputPath: string, options: FinishOptions = {}): Promise<FinishResult> {
  const { files = nodeFiles, onEvent = () => {}, signal } = options;
  const folder = await partsFolder(outputPath, files);
  const parts = await readPartsPlan(folder, files);
  if (parts === undefined || !(await exists(folder.staged, files))) {
    // Killed behind its rename, an earlier finish left the folder of the parts.
    const joined = await joinedFrom(folder, files);
    if (joined === undefined) throw noParts(folder);
    if (parts !== undefined) await removeParts(folder, files);
    return { outputPath: folder.path, state: "already finished", report: await readReport(folder.path, files) };
  }
  checkVersion(parts, folder);
  const onWait = (seconds: number) =>
    onEvent({
      event: "note",
      message: watching(seconds),
    });
  const lock = await takeSharedLock(finishLock(folder), { files, signal, onWait });
  try {
    // Against a run on one machine that would build the same output.
    const outputLock = await takeSharedLock(folder.partialPath, { files, signal, onWait });
    try {
      const report = await new Finish(folder, parts, options, files, onEvent).run();
      return { outputPath: folder.path, state: "finished", report };
    } catch (error) {
      if (!isPhysariumError(error, "STOPPED")) throw error;
      const kept = "what is joined is kept; the same command goes on from there";
      throw new PhysariumError("STOPPED", `${folder.path}: stopped; ${kept}`, { path: folder.path }, error);
    } finally {
      await outputLock.release().catch(() => {});
    }
  } finally {
    await lock.release().catch(() => {});
  }
}

class Finish {
  private readonly startedMs = performance.now();

  constructor(
    private readonly folder: PartsFolder,
    private readonly parts: PartsPlan,
    private readonly options: FinishOptions,
    private readonly files: FileLayer,
    private readonly onEvent: OnEvent,
  ) {}

  async run(): Promise<SurgeryReport> {
    const { folder, parts, options, files } = this;
    await settleReplacement(folder, files);
    const replaces = await this.mayTakeName();
    await this.refuseRunning();
    const digester = await createDigester();
    const plan = planSurgery(await openForSurgery(parts.header.donor.path, files), optionsOf(parts, options.workers));
    const touched = checkSameOperation(
      parts.header,
      await fingerprintOf(plan, digester, files),
      plan.model,
      folder.path,
    );
    if (touched.size > 0) {
      throw new PhysariumError(
        "DONOR_CHANGED",
        `${plan.donor.path}: written to or copied since the parts were prepared: ${[...touched].join(", ")}; prepare ` +
          "again with --overwrite",
        { files: [...touched] },
      );
    }
    const gathered = await gatherParts(folder, parts, plan, files);
    const checkSignal = () => refuseStopped(options.signal);
    checkSignal();
    const progress = new ProgressTally(this.onEvent);
    await joinShards({ folder, plan, gathered, digester, progress, files, signal: options.signal });
    checkSignal();
    this.onEvent({ event: "finishing", step: "copying side files, gathering figures, writing the report" });
    const ledger = await this.beginLedger(plan, gathered);
    let report: SurgeryReport;
    try {
      report = await completeOperation({
        plan,
        params: plan.options.params,
        folder: folder.staged,
        outputPath: folder.path,
        ledger,
        digester,
        files,
        checkSignal,
        recordEnd: () => this.recordRun(gathered),
        render: options.render,
        card: options.card,
        measure: async (staged) => ({
          ...(await options.measure?.(staged)),
          parts: partsNumbers(gathered.done, (performance.now() - this.startedMs) / 1000),
        }),
      });
    } finally {
      await ledger.close().catch(() => {});
    }
    checkSignal();
    await publishFolder({ ...folder, partialPath: folder.staged }, replaces, files);
    await removeParts(folder, files);
    return report;
  }

  /** Whether an output stands at the name that this one replaces. Throws `USAGE_OUTPUT_EXISTS`. */
  private async mayTakeName(): Promise<boolean> {
    const { folder, parts, files } = this;
    const { occupied, partial } = await inspectOutput(folder.path, [parts.header.donor.path], files);
    const isFree = occupied === "nothing" || occupied === "empty";
    if (partial === "nothing" && (isFree || (occupied === "operated" && parts.overwrite))) return !isFree;
    throw new PhysariumError(
      "USAGE_OUTPUT_EXISTS",
      `${partial === "nothing" ? folder.path : folder.partialPath}: something stands there since the parts were ` +
        "prepared; move it away, then finish",
      { path: folder.path },
    );
  }

  private async refuseRunning(): Promise<void> {
    const running = await runningParts(this.folder, this.files);
    if (running.length === 0) return;
    const [{ part, host, pid }] = running;
    throw new PhysariumError(
      "USAGE_LOCKED",
      `${this.folder.folder}: ${running.length} of its parts are being worked on (part ${part} by process ${pid} on ` +
        `${host}); finish when they are done`,
      { part, host, pid },
    );
  }

  /** The records in the order of the run, as one machine would write them. */
  private async beginLedger(plan: Plan, { records, headerDigests, secondsOf }: Gathered): Promise<LedgerWriter> {
    const { parts, folder, files } = this;
    const recordFolder = join(folder.staged, RECORD_FOLDER);
    await attempt("removing", recordFolder, () => files.rm(recordFolder, { recursive: true, force: true }));
    await attempt("creating", recordFolder, () => files.mkdir(recordFolder));
    const at = new Date().toISOString();
    const lines: LedgerRecord[] = [parts.header];
    for (const { code, message } of plan.warnings) {
      lines.push({ kind: "warning", at, code, message });
      this.onEvent({ event: "warning", code, message });
    }
    if (parts.search !== null) lines.push(parts.search);
    let killed = 0;
    for (const [position, { file, byteLength, tensors }] of plan.shards.entries()) {
      for (const { name } of tensors) {
        const record = records.get(name)!;
        killed += record.killed ?? 0;
        lines.push(record);
      }
      lines.push({
        kind: "shard",
        at,
        file,
        order: position + 1,
        seconds: secondsOf.get(file) ?? 0,
        killed_cumulative: killed,
        byte_length: byteLength,
        header_digest: headerDigests.get(file)!,
      });
    }
    const path = recordPath(folder.staged, "ledger");
    const bytes = new TextEncoder().encode(lines.map((record) => `${JSON.stringify(record)}\n`).join(""));
    await writeSmallFile(path, bytes, files);
    return LedgerWriter.open(path, bytes.byteLength, files);
  }

  /** All machines together are one run: what the record says of time and memory is said of them. */
  private async recordRun({ done }: Gathered): Promise<RunEntry[]> {
    const started = done.reduce(
      (first, { started_at }) => (started_at < first ? started_at : first),
      new Date().toISOString(),
    );
    const ended = new Date();
    const run: RunEntry = {
      started_at: started,
      workers: done.reduce((most, { workers }) => Math.max(most, workers), 0),
      ended_at: ended.toISOString(),
      wall_seconds: Math.max(0, (ended.getTime() - Date.parse(started)) / 1000),
      peak_rss_bytes: done.reduce(
        (most, { peak_rss_bytes }) => Math.max(most, peak_rss_bytes),
        process.resourceUsage().maxRSS * 1024,
      ),
    };
    await writeRuns(this.folder.staged, [run], this.files);
    return [run];
  }
}

function removeParts({ folder }: PartsFolder, files: FileLayer): Promise<void> {
  return attempt("removing", folder, () => files.rm(folder, { recursive: true, force: true }));
}
