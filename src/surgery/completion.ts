import { join } from "node:path";
import type { FileLayer } from "../checkpoint/file-layer.js";
import type { FlowParams } from "../flow/params.js";
import { syncFolder, writeSmallFile } from "../output/small-file.js";
import { CARD_FILE, cardRecord, type DonorCard, readDonorCard } from "../record/card.js";
import type { Digester } from "../record/digest.js";
import { type LedgerWriter, RECORD_FOLDER, type SideFileRecord } from "../record/ledger.js";
import { readLedgerText, recordPath } from "../record/open-record.js";
import type { RunEntry } from "../record/run-history.js";
import { summarise } from "../record/summarise.js";
import type { SurgeryReport } from "../record/surgery-report.js";
import { gatherFigures } from "./figures.js";
import type { Plan } from "./plan.js";
import { checkDonorUnchanged, copySideFiles } from "./shard-files.js";

/** Renders what goes beside `surgery.json` into `physarium/`: file name → content. */
export type RenderDocuments = (
  report: SurgeryReport,
  ledgerText: string,
) => Record<string, string> | Promise<Record<string, string>>;

/** Renders the output's model card; the same numbers give the same bytes. */
export type RenderCard = (report: SurgeryReport, donorCard: DonorCard | undefined) => string;

/** Sections measured on the finished folder before it gets its name, to be added to the report. */
export type MeasureSections = (folder: string) => Promise<Record<string, unknown>>;

export interface Completion {
  readonly plan: Plan;
  readonly params: FlowParams;
  /** The partial folder, all of whose weights are written. */
  readonly folder: string;
  readonly outputPath: string;
  readonly ledger: LedgerWriter;
  readonly digester: Digester;
  readonly files: FileLayer;
  checkSignal(): void;
  /** Brings the weights to the disk, where that is not done yet; runs beside what only reads them. */
  readonly flush?: () => Promise<void>;
  /** Note how this run went; returns all runs. */
  recordEnd(): Promise<RunEntry[]>;
  readonly render: RenderDocuments | undefined;
  readonly measure: MeasureSections | undefined;
  /** Where absent, the output gets no card, and the donor's keeps its name. */
  readonly card: RenderCard | undefined;
}

/**
 * Everything between the last weight and the final name: side files, figures, the proof that the donor is what it was,
 * the last record, the numbers and documents, all of it flushed.
 */
export async function completeOperation(completion: Completion): Promise<SurgeryReport> {
  const { plan, folder, outputPath, ledger: writer, files } = completion;
  const at = () => new Date().toISOString();
  const [{ side_files, sections }] = await together(gather(completion), completion.flush?.());
  await checkDonorUnchanged(plan, files);
  // Everything is on the disk before the ledger says so.
  await writer.append({ kind: "finished", at: at(), side_files, left_out: plan.leftOut });
  await writer.sync();

  const { ledger, text } = await readLedgerText(folder, files);
  const report = { ...summarise(ledger, await completion.recordEnd(), outputPath), ...sections };
  const recordFolder = join(folder, RECORD_FOLDER);
  await writeSmallFile(recordPath(folder, "numbers"), `${JSON.stringify(report, null, 1)}\n`, files);
  for (const [name, content] of Object.entries((await completion.render?.(report, text)) ?? {})) {
    await writeSmallFile(join(recordFolder, name), content, files);
  }
  await syncFolder(recordFolder, files);
  await syncFolder(folder, files);
  return report;
}

/** Side files, the card, what the report draws, and what is measured besides. */
async function gather(completion: Completion): Promise<Gathered> {
  const { plan, params, folder, outputPath, ledger: writer, digester, files, card } = completion;
  const copied = await copySideFiles(plan, folder, digester, card !== undefined, files);
  for (const record of copied) await writer.append(record);
  const sums = summarise((await readLedgerText(folder, files)).ledger, [], outputPath);
  if (card !== undefined) await writer.append(await writeCard(card, sums, copied, completion));
  // Both wait for small reads most of the time: side by side they wait once.
  const [figures, sections] = await together(
    gatherFigures(plan, params, folder, sums.per_tensor, files, () => completion.checkSignal()),
    completion.measure?.(folder),
  );
  await writer.append({ kind: "figures", at: new Date().toISOString(), figures });
  return { side_files: copied.map(({ file }) => file), sections };
}

interface Gathered {
  readonly side_files: readonly string[];
  readonly sections: Record<string, unknown> | undefined;
}

/** Both results, once both have ended: nothing goes on writing behind an error. */
async function together<First, Second>(first: Promise<First>, second: Promise<Second> | undefined) {
  const [one, other] = await Promise.allSettled([first, second]);
  if (one.status === "rejected") throw one.reason;
  if (other.status === "rejected") throw other.reason;
  return [one.value, other.value] as const;
}

/** The card from the sums of the ledger as it stands: nothing in it is of this run alone. Returns its record. */
async function writeCard(
  render: RenderCard,
  sums: SurgeryReport,
  copied: readonly SideFileRecord[],
  { folder, digester, files }: Completion,
): Promise<SideFileRecord> {
  const text = render(sums, await readDonorCard(folder, copied, files));
  await writeSmallFile(join(folder, CARD_FILE), text, files);
  return cardRecord(text, digester);
}
