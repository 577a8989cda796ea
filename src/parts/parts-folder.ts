import { join } from "node:path";
import { type FileLayer, nodeFiles } from "../checkpoint/file-layer.js";
import { type OutputNames, outputNames } from "../output/place.js";

/**
 * Where an operation in parts is built: `<output>.parts`, on a disk that all machines see under the same path.
 *
 * ```
 * parts.json           what is to be done, and in how many parts
 * tensors.jsonl        a line a part: its tensors as they were planned
 * part-I.jsonl         tensors of part I that are written, while it is being worked on
 * part-I.done.json     part I is written and flushed
 * part-I.failed.json   why the last run of part I ended without that
 * locks/               one lock a part that is being worked on
 * unfinished/          files that are being written
 * slices/              stretches of shards that were cut, for finish to join
 * output/              shards, and in the end everything, to be renamed to <output>
 * ```
 */
export interface PartsFolder extends OutputNames {
  readonly folder: string;
  readonly planPath: string;
  readonly tensorsPath: string;
  readonly locks: string;
  readonly unfinished: string;
  readonly slices: string;
  readonly staged: string;
}

export const PLAN_FILE = "parts.json";

export async function partsFolder(output: string, files: FileLayer = nodeFiles): Promise<PartsFolder> {
  const names = await outputNames(output, files);
  const folder = `${names.path}.parts`;
  const inside = (name: string) => join(folder, name);
  return {
    ...names,
    folder,
    planPath: inside(PLAN_FILE),
    tensorsPath: inside("tensors.jsonl"),
    locks: inside("locks"),
    unfinished: inside("unfinished"),
    slices: inside("slices"),
    staged: inside("output"),
  };
}

/** What a part leaves in the folder. */
export function partFile({ folder }: PartsFolder, part: number, kind: "jsonl" | "done.json" | "failed.json"): string {
  return join(folder, `part-${part}.${kind}`);
}

/** The part that a file in the folder speaks of. */
export function partOfFile(name: string): { readonly part: number; readonly kind: string } | undefined {
  const match = /^part-(0|[1-9]\d*)\.(jsonl|done\.json|failed\.json)$/.exec(name);
  return match === null ? undefined : { part: Number(match[1]), kind: match[2] };
}

/** What finish's lock is of. */
export function finishLock({ locks }: PartsFolder): string {
  return join(locks, "finish");
}

/** What a part's lock is of: `takeLock` adds `.lock`. */
export function partLock({ locks }: PartsFolder, part: number): string {
  return join(locks, `part-${part}`);
}
