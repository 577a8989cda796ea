import * as v from "valibot";
import { type FileLayer, readSmallFile } from "../checkpoint/file-layer.js";
import { isPhysariumError, PhysariumError } from "../errors.js";
import { writeSmallFile } from "../output/small-file.js";
import type { TensorRecord } from "../record/ledger.js";
import { RECORD_SCHEMAS } from "../record/ledger-schema.js";
import { Count, Digest, FileName, NotNegative, readJson, Time, Words } from "../record/read-json.js";
import { type PartsFolder, partFile } from "./parts-folder.js";

/** Who did a part, and how it went. */
export interface PartRunEntry {
  readonly host: string;
  readonly pid: number;
  readonly started_at: string;
  readonly ended_at: string;
  readonly seconds: number;
  readonly workers: number;
  readonly peak_rss_bytes: number;
  /** Tensors that an earlier run of the part had written already. */
  readonly resumed_tensors: number;
}

/** `part-I.done.json`: the bytes are on the disk, and this is what they are. */
export interface DonePart extends PartRunEntry {
  readonly physarium_version: string;
  readonly fingerprint: string;
  readonly part: number;
  readonly byte_length: number;
  readonly shards: readonly {
    readonly file: string;
    readonly whole: boolean;
    readonly first_byte: number;
    readonly end_byte: number;
  }[];
  /** The ledger's records. */
  readonly tensors: readonly TensorRecord[];
}

/** `part-I.failed.json`: why the last run of a part ended without that. */
export interface FailedPart {
  readonly fingerprint: string;
  readonly part: number;
  readonly host: string;
  readonly pid: number;
  readonly at: string;
  readonly code: string;
  readonly message: string;
  /** Whether another try is worth it. */
  readonly retry: boolean;
}

const DONE_HEAD = {
  physarium_version: Words,
  fingerprint: Digest,
  part: Count,
  byte_length: Count,
  host: Words,
  pid: Count,
  started_at: Time,
  ended_at: Time,
  seconds: NotNegative,
  workers: Count,
  peak_rss_bytes: NotNegative,
  resumed_tensors: Count,
  shards: v.array(v.looseObject({ file: FileName, whole: v.boolean(), first_byte: Count, end_byte: Count })),
};
const Done: v.GenericSchema<unknown, DonePart> = v.looseObject({
  ...DONE_HEAD,
  tensors: v.array(RECORD_SCHEMAS.tensor),
});

const Failed: v.GenericSchema<unknown, FailedPart> = v.looseObject({
  fingerprint: Digest,
  part: Count,
  host: Words,
  pid: Count,
  at: Time,
  code: Words,
  message: Words,
  retry: v.boolean(),
});

/** What there is to know of a done part without its tensors. */
export type DoneHead = Omit<DonePart, "tensors">;

const Head: v.GenericSchema<unknown, DoneHead> = v.looseObject({ ...DONE_HEAD, tensors: v.array(v.unknown()) });

/** The same file, its tensors not looked at. */
export function readDoneHead(folder: PartsFolder, part: number, files: FileLayer): Promise<DoneHead | undefined> {
  return read(partFile(folder, part, "done.json"), part, Head, files);
}

/** A part has at most some hundred thousand tensors. */
const MAX_MANIFEST_BYTES = 2 ** 29 - 24;

/** `undefined` where the part is not done. Throws `VERIFY_PART` for a file that cannot be what it is named. */
export function readDone(folder: PartsFolder, part: number, files: FileLayer): Promise<DonePart | undefined> {
  return read(partFile(folder, part, "done.json"), part, Done, files);
}

export function readFailed(folder: PartsFolder, part: number, files: FileLayer): Promise<FailedPart | undefined> {
  return read(partFile(folder, part, "failed.json"), part, Failed, files);
}

async function read<T extends { readonly part: number }>(
  path: string,
  part: number,
  schema: v.GenericSchema<unknown, T>,
  files: FileLayer,
): Promise<T | undefined> {
  const refuse = (fault: string, cause?: unknown) =>
    new PhysariumError(
      "VERIFY_PART",
      `${path}: ${fault}; the file was edited or damaged, remove it and run part ${part} again`,
      { path, part },
      cause,
    );
  try {
    const manifest = readJson(await readSmallFile(path, files, MAX_MANIFEST_BYTES), schema, refuse);
    if (manifest.part !== part) throw refuse(`it speaks of part ${manifest.part}`);
    return manifest;
  } catch (error) {
    if (isPhysariumError(error, "IO_NOT_FOUND")) return undefined;
    throw error;
  }
}

export function writeManifest(
  folder: PartsFolder,
  kind: "done.json" | "failed.json",
  manifest: DonePart | FailedPart,
  files: FileLayer,
): Promise<void> {
  return writeSmallFile(partFile(folder, manifest.part, kind), `${JSON.stringify(manifest)}\n`, files);
}
