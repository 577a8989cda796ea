import { type FileLayer, nodeFiles, readSmallFile } from "../checkpoint/file-layer.js";
import { isPhysariumError, PhysariumError } from "../errors.js";
import {
  type CalibrationLedgerRecord,
  type DonorHashRecord,
  type DonorProofRecord,
  type FinishedRecord,
  type HeaderRecord,
  LEDGER_VERSION,
  type Ledger,
  type LedgerRecord,
  type SearchRecord,
  type ShardRecord,
  type SideFileRecord,
  type TensorRecord,
  type WarningRecord,
} from "./ledger.js";
import { RecordSchema } from "./ledger-schema.js";
import { readJson } from "./read-json.js";
import type { Figures } from "./surgery-report.js";

/**
 * The documents beside it are made from its text, and V8's strings end at 2^29 − 24 characters. A million tensors stay
 * under this.
 */
export const MAX_LEDGER_BYTES = 2 ** 29 - 24;
/** The longest record holds the pictures' data: some ten kilobytes. A name in a hostile header may have megabytes. */
const MAX_LINE_BYTES = 128 << 20;
/** Every record is of a tensor, a shard, a file or a warning. */
const MAX_RECORDS = 4_000_000;

/**
 * Read a ledger, of this version or an earlier one. `undefined` when there is none, or no whole header in it (a run
 * killed before its first record). Throws `VERIFY_LEDGER` where a whole line is no record: of another type, out of
 * range, not known. With `stopped`, the records end before such a line instead: a power cut may leave the end of a file
 * as zeros, and a resume checks every claim against the weights anyway.
 */
export async function readLedger(
  path: string,
  files: FileLayer = nodeFiles,
  stopped = false,
): Promise<Ledger | undefined> {
  let bytes: Uint8Array;
  try {
    bytes = await readLedgerBytes(path, files);
  } catch (error) {
    if (isPhysariumError(error, "IO_NOT_FOUND")) return undefined;
    throw error;
  }
  return parseLedger(bytes, path, stopped);
}

/** Throws `VERIFY_LEDGER` for what is no regular file, or larger than a ledger gets. */
export async function readLedgerBytes(path: string, files: FileLayer = nodeFiles): Promise<Uint8Array> {
  try {
    return await readSmallFile(path, files, MAX_LEDGER_BYTES);
  } catch (error) {
    if (!isPhysariumError(error, "DONOR_")) throw error;
    throw new PhysariumError("VERIFY_LEDGER", error.message, { path }, error);
  }
}

export function parseLedger(bytes: Uint8Array, path: string, stopped = false): Ledger | undefined {
  const records: LedgerRecord[] = [];
  let wholeByteLength = 0;
  try {
    for (const { record, end } of parseRecords(bytes, path)) {
      records.push(record);
      wholeByteLength = end;
    }
  } catch (error) {
    if (!stopped || !isPhysariumError(error)) throw error;
  }
  const header = records[0];
  if (header === undefined) return undefined;
  if (header.kind !== "header") throw badLedger(path, "its first record is no header");
  if (!(header.ledger_version >= 1 && header.ledger_version <= LEDGER_VERSION)) {
    throw badLedger(
      path,
      `it is of version ${header.ledger_version}, this Physarium reads version 1 to ${LEDGER_VERSION}`,
    );
  }
  return collect(header, records, wholeByteLength);
}

/** The whole lines of a ledger as records, each looked at, with the byte behind it. */
export function* parseRecords(
  bytes: Uint8Array,
  path: string,
): Generator<{ readonly record: LedgerRecord; readonly end: number }> {
  let start = 0;
  for (let line = 1; ; line++) {
    const end = bytes.indexOf(0x0a, start);
    if (end < 0) return;
    if (line > MAX_RECORDS) throw badLedger(path, `it has more than ${MAX_RECORDS} records`);
    const refuse = (fault: string) => badLedger(path, `line ${line} is no record (${fault})`);
    if (end - start > MAX_LINE_BYTES) throw refuse(`${end - start} bytes, at most ${MAX_LINE_BYTES} are expected`);
    const record = readJson(bytes.subarray(start, end), RecordSchema, refuse);
    if (record.kind === "header" && line > 1) throw refuse("a second header");
    yield { record, end: end + 1 };
    start = end + 1;
  }
}

function badLedger(path: string, fault: string): PhysariumError {
  return new PhysariumError(
    "VERIFY_LEDGER",
    `${path}: ${fault}; the ledger was edited or damaged, operate again with --overwrite`,
    { path },
  );
}

function collect(header: HeaderRecord, records: readonly LedgerRecord[], wholeByteLength: number): Ledger {
  const tensors = new Map<string, TensorRecord>();
  const shards = new Map<string, ShardRecord>();
  const sideFiles = new Map<string, SideFileRecord>();
  const cards: SideFileRecord[] = [];
  const warnings: WarningRecord[] = [];
  const donorHashes = new Map<string, DonorHashRecord>();
  const donorProofs = new Map<string, DonorProofRecord>();
  let search: SearchRecord | undefined;
  let calibration: CalibrationLedgerRecord | undefined;
  let figures: Figures | undefined;
  let finished: FinishedRecord | undefined;
  for (const record of records) {
    if (record.kind === "tensor") tensors.set(record.name, record);
    else if (record.kind === "shard") shards.set(record.file, record);
    else if (record.kind === "side_file") {
      sideFiles.set(record.file, record);
      if (record.made === "card") cards.push(record);
    } else if (record.kind === "warning") warnings.push(record);
    else if (record.kind === "donor_hash") donorHashes.set(record.file, record);
    else if (record.kind === "donor_proof") donorProofs.set(record.file, record);
    else if (record.kind === "search") search = record;
    else if (record.kind === "calibration") calibration = record;
    else if (record.kind === "figures") figures = record.figures;
    else if (record.kind === "finished") finished = record;
  }
  return {
    ...{ header, search, calibration, tensors, shards, sideFiles, cards, warnings },
    ...{ donorHashes, donorProofs, figures, finished, wholeByteLength },
  };
}
