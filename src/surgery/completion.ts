import { join } from "node:path";
import type { FileLayer } from "../checkpoint/file-layer.js";
import type { FlowParams } from "../flow/params.js";
import { syncFolder, writeSmallFile } from "../output/small-file.js";
import type { Digester } from "../record/digest.js";
import { type LedgerWriter, RECORD_FOLDER } from "../record/ledger.js";
import { readLedgerText, recordPath } from "../record/open-record.js";
import type { RunEntry } from "../record/run-history.js";
import { summarise } from "../record/summarise.js";
import type { SurgeryReport } from "../record/surgery-report.js";
import { gatherFigures } from "./figures.js";
import type { Plan } from "./plan.js";
import { checkDonorUnchanged, copySideFiles } from "./shard-files.js";

/** Renders what goes beside `surgery.json` into `physarium/`: file name → content. */
export type RenderDocuments = (report: SurgeryReport, ledgerText: string) => Record<string, string>;

/** Sections measured on the finished folder before it gets its name, to be added to the report. */
export type MeasureSections = (folder: string) => Promise<Record<string, unknown>>;

export interface Completion {
  readonly plan: Plan;
  readonly params: FlowParams;
  /** The partial folder, all of whose weights are on the disk. */
  readonly folder: string;
  readonly outputPath: string;
  readonly ledger: LedgerWriter;
  readonly digester: Digester;
  readonly files: FileLayer;
  checkSignal(): void;
  /** Note how this run went; returns all runs. */
  recordEnd(): Promise<RunEntry[]>;
  readonly render: RenderDocuments | undefined;
  readonly measure: MeasureSections | undefined;
}

/**
 * Everything between the last weight and the final name: side files, figures, the proof that the donor is what it was,
 * the last record, the numbers and documents, all of it flushed.
 */
export async function completeOperation(completion: Completion): Promise<SurgeryReport> {
  const { plan, params, folder, outputPath, ledger: writer, digester, files } = completion;
  for (const record of await copySideFiles(plan, folder, digester, files)) await writer.append(record);
  const rows = summarise((await readLedgerText(folder, files)).ledger, [], outputPath).per_tensor;
  const at = () => new Date().toISOString();
  const figures = await gatherFigures(plan, params, folder, rows, files, () => completion.checkSignal());
  await writer.append({ kind: "figures", at: at(), figures });
  await checkDonorUnchanged(plan, files);
  const side_files = plan.sideFiles.map(({ file }) => file);
  await writer.append({ kind: "finished", at: at(), side_files, left_out: plan.leftOut });
  await writer.sync();

  const sections = await completion.measure?.(folder);
  const { ledger, text } = await readLedgerText(folder, files);
  const report = { ...summarise(ledger, await completion.recordEnd(), outputPath), ...sections };
  const recordFolder = join(folder, RECORD_FOLDER);
  await writeSmallFile(recordPath(folder, "numbers"), `${JSON.stringify(report, null, 1)}\n`, files);
  for (const [name, content] of Object.entries(completion.render?.(report, text) ?? {})) {
    await writeSmallFile(join(recordFolder, name), content, files);
  }
  await syncFolder(recordFolder, files);
  await syncFolder(folder, files);
  return report;
}
