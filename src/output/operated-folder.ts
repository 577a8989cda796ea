import { join } from "node:path";
import { type FileLayer, nodeFiles } from "../checkpoint/file-layer.js";
import { exists, listOrNothing, type OutputNames, outputNames, refuseOverlap } from "./place.js";
import { LEDGER_FILE, RECORD_FOLDER } from "./record-folder.js";
import { isReplacing, publishFolder, refuseInTheWay, takenMeanwhile } from "./replacement.js";

/** Where surgery builds an output and what stands there already. */
export interface OutputFolder extends OutputNames {
  /** What the final name holds now. */
  readonly occupied: "nothing" | "empty" | "operated" | "foreign";
  readonly partial: "nothing" | "ours" | "foreign";
}

/**
 * Look at an output path and refuse what must never be written to: a place equal to, inside or around one of the
 * inputs. Changes nothing. Throws `USAGE_OUTPUT_*`.
 */
export async function inspectOutput(
  path: string,
  inputs: readonly string[],
  files: FileLayer = nodeFiles,
): Promise<OutputFolder> {
  const names = await outputNames(path, files);
  await refuseOverlap(names, inputs, files);
  let occupied = await occupation(names.path, files);
  // Beside its partial folder surgery has no ledger; other writers have.
  const partial = (await exists(names.ledgerPath, files)) ? "foreign" : await partialState(names.partialPath, files);
  if (await isReplacing(names, files)) {
    // Killed between two renames, a run leaves the old output under its waiting name: it is still what the final name
    // holds.
    if (occupied === "nothing" && (await exists(names.replacedPath, files))) occupied = "operated";
  } else if (occupied === "operated") {
    await refuseInTheWay(names, files);
  }
  return { ...names, occupied, partial };
}

/** Rename the finished folder to its final name, replacing an operated output that was there from the start. */
export async function publish(output: OutputFolder, files: FileLayer = nodeFiles): Promise<void> {
  const replaces = (await occupation(output.path, files)) === "operated";
  if (replaces && output.occupied !== "operated") throw takenMeanwhile(output.path);
  await publishFolder(output, replaces, files);
}

async function occupation(path: string, files: FileLayer): Promise<OutputFolder["occupied"]> {
  const entries = await listOrNothing(path, files);
  if (entries === undefined) return "nothing";
  if (entries.length === 0) return "empty";
  return (await exists(join(path, RECORD_FOLDER, LEDGER_FILE), files)) ? "operated" : "foreign";
}

async function partialState(path: string, files: FileLayer): Promise<OutputFolder["partial"]> {
  const entries = await listOrNothing(path, files);
  if (entries === undefined) return "nothing";
  // Killed before its first record, a run leaves an empty folder or one that holds our record folder alone.
  if (entries.length === 0 || (entries.length === 1 && entries[0] === RECORD_FOLDER)) return "ours";
  return (await exists(join(path, RECORD_FOLDER, LEDGER_FILE), files)) ? "ours" : "foreign";
}
