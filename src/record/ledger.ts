import {
  closeQuietly,
  closeWritten,
  type FileLayer,
  ioError,
  nodeFiles,
  type OpenFile,
  writeFully,
} from "../checkpoint/file-layer.js";
import type { DistilRecord } from "./distilling.js";
import type { ModifiedTimes, RecordedIdentity } from "./donor-identity.js";
import type { Evidence } from "./evidence.js";
import type { MatchRecord } from "./matching.js";
import type { Figures } from "./surgery-report.js";

/**
 * `physarium/ledger.jsonl`: one JSON record a line, appended as things are done. A header with the fingerprint, then a
 * record for every tensor of the output; warnings, shards and side files are records of their own; `finished` is the
 * last, but for cards that measurements renewed. A stopped run is exactly a ledger without it. A run that was stopped
 * and resumed leaves the same records as one that was not, up to order and times; what differs between runs
 * (workers, memory, starts) stands in runs.jsonl.
 *
 * Version 2: a donor is told by its content (donor-identity.ts), the times stand beside it in `donor.modified_ns`.
 * Version 1 told it by times, too, and is still read.
 */
export const LEDGER_VERSION = 2;
export { LEDGER_FILE, RECORD_FOLDER } from "../output/record-folder.js";

/**
 * What must agree for a stopped run to be resumed: donor, flow and parameters, but no path, worker count or display
 * flag.
 */
export interface Fingerprint extends RecordedIdentity {
  readonly physarium_version: string;
  readonly flow: string;
  readonly flow_version: string;
  readonly block_size: number;
  readonly n_iter: number;
  readonly beta: number;
  /** As asked; with a target sparsity the search decides, see the `search` record. */
  readonly survival: number | null;
  readonly target_sparsity: number | null;
  readonly include: string | null;
  readonly exclude: string | null;
  readonly allow_non_finite: boolean;
  /** v2: what it aims at and what it was calibrated on; null for flows that consume no activations. */
  readonly activation: ActivationFingerprint | null;
}

export interface ActivationFingerprint {
  readonly target: { readonly kind: string; readonly [more: string]: unknown };
  /** XXH128 of the calibration text, or `self-written`. */
  readonly calibration: string;
  readonly samples: number;
  readonly window: number | null;
  readonly protocol: { readonly [option: string]: unknown } | null;
  readonly seed: number;
  readonly heal: boolean;
  readonly allocation: string;
  readonly gram: string;
  /** v3: how the whole model is distilled behind that. */
  readonly distil?: { readonly [option: string]: number };
  /** v3: how layers are matched. */
  readonly match?: { readonly [option: string]: number };
  /** Decides between whole and tiled Grams where `gram` is `auto`. */
  readonly memory_bytes: number | null;
}

export interface HeaderRecord {
  readonly kind: "header";
  readonly ledger_version: number;
  readonly at: string;
  readonly fingerprint: Fingerprint;
  readonly donor: {
    readonly path: string;
    readonly name: string;
    readonly total_size: number;
    readonly tensor_count: number;
    readonly shard_count: number;
    readonly model_weights: number;
    /** Of each shard when the run began. No part of the fingerprint: a copy of the donor is the same donor. */
    readonly modified_ns?: ModifiedTimes;
  };
}

/** What `--target-sparsity` found. */
export interface SearchRecord {
  readonly kind: "search";
  readonly at: string;
  readonly target_sparsity: number;
  readonly survival: number;
  readonly expected_sparsity: number;
}

/** What a text, or the donor itself, gave to calibrate on. */
export interface CalibrationRecord {
  /** File name, or `null` for text the donor wrote itself. */
  readonly text: string | null;
  /** Of the file's bytes. */
  readonly sha256: string | null;
  readonly samples: number;
  readonly window: number;
  readonly tokens: number;
  readonly seed: number;
  /** Of the token ids that calibrate, or of what a file of Grams says of itself: a resumed run must see the same. */
  readonly ids_sha256: string;
  /** Name of the file of Grams that was used in place of the text they were collected from. */
  readonly grams?: string;
}

/** What v2 was calibrated on. */
export interface CalibrationLedgerRecord extends CalibrationRecord {
  readonly kind: "calibration";
  readonly at: string;
  /** Of the targets of each shard, before anything was calibrated: says of a touched donor whether it is the same. */
  readonly target_digests?: Readonly<Record<string, string>>;
}

/** What the ledger holds of a tensor that v2 operated on, beside its counts. */
export interface ActivationRecord {
  /** Living weights whose bits are not the donor's: healing moved them. */
  readonly survivors_changed: number;
  /** Weights that were ±0 and live now. */
  readonly revived: number;
  /** Tubes that sprouted where selection had left none, of the living. */
  readonly exchanged_share: number;
  /** How the Gram of its inputs was used: all columns coupled, or those of a tile. */
  readonly gram: "whole" | "tiles";
  /** Of an expert, or of each in a stack: the calibration tokens that came to it. Absent where all came. */
  readonly expert_tokens?: readonly number[];
  /** Relative output error after each stage, as `StageRecord` defines it. */
  readonly stages: readonly { readonly stage: string; readonly relative_error?: number; readonly seconds: number }[];
  /** Its weights moved by the whole model's likelihoods: a class of its own in all tables. */
  readonly trained?: true;
  readonly distil?: DistilRecord;
  /** v3: what matching its layer gained; the same in every tensor of the layer. */
  readonly match?: MatchRecord;
  /** What ties the healed weights to the donor's; absent in ledgers of before. */
  readonly evidence?: Evidence;
}

export interface TensorRecord extends Partial<ActivationRecord> {
  readonly kind: "tensor";
  readonly at: string;
  readonly name: string;
  readonly shard: string;
  readonly role: "target" | "carried";
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly byte_offset: number;
  readonly byte_length: number;
  /** XXH128 over the XXH128 digests of the pieces; the two lengths say where pieces end (src/record/pieces.ts). */
  readonly digest: string;
  readonly digest_matrix_bytes: number;
  readonly digest_piece_bytes: number;
  /** Targets, and matrices of decoder layers that stay as they are. */
  readonly layer?: number;
  readonly projection?: string;
  /** Carried matrices of decoder layers only: why they are no targets. */
  readonly why?: string;
  /** Targets that `--include` took from outside the decoder's layers. */
  readonly in_decoder?: false;
  /** Targets whose rows in the file are the inputs of the product and whose columns are its outputs. */
  readonly stored_by_input?: true;
  /** Targets only. */
  readonly weights?: number;
  readonly already_zero?: number;
  readonly killed?: number;
  readonly sparsity?: number;
  readonly tiles?: number;
  /** Lowest and highest sparsity of a tile. */
  readonly tile_sparsity?: readonly [number, number];
  readonly non_finite?: number;
}

export interface ShardRecord {
  readonly kind: "shard";
  readonly at: string;
  readonly file: string;
  readonly order: number;
  readonly seconds: number;
  readonly killed_cumulative: number;
  readonly byte_length: number;
  /** XXH128 of the bytes before the data section. */
  readonly header_digest: string;
}

export interface SideFileRecord {
  readonly kind: "side_file";
  readonly at: string;
  readonly file: string;
  readonly byte_length: number;
  readonly digest: string;
  /** The donor's name for it, where that is another (record/card.ts). */
  readonly from?: string;
  /** Ours: the model card. All other side files are the donor's. */
  readonly made?: "card";
}

export interface WarningRecord {
  readonly kind: "warning";
  readonly at: string;
  readonly code: string;
  readonly message: string;
}

/**
 * A donor that is read while it comes over the wire: the running hash of a shard after `byte_length` bytes, where all
 * tensors up to there are recorded. A resumed run goes on from it.
 */
export interface DonorHashRecord {
  readonly kind: "donor_hash";
  readonly at: string;
  readonly file: string;
  readonly byte_length: number;
  /** As the hash library saves it, in base64. */
  readonly state: string;
}

/** All bytes of a shard came, and their hash is the one that the donor's source states. */
export interface DonorProofRecord {
  readonly kind: "donor_proof";
  readonly at: string;
  readonly file: string;
  readonly byte_length: number;
  /** `sha256:` or `git-sha1:` and the digits. */
  readonly content: string;
}

export interface FiguresRecord {
  readonly kind: "figures";
  readonly at: string;
  readonly figures: Figures;
}

export interface FinishedRecord {
  readonly kind: "finished";
  readonly at: string;
  readonly side_files: readonly string[];
  readonly left_out: readonly { readonly file: string; readonly reason: string }[];
}

export type LedgerRecord =
  | HeaderRecord
  | SearchRecord
  | CalibrationLedgerRecord
  | TensorRecord
  | ShardRecord
  | SideFileRecord
  | WarningRecord
  | DonorHashRecord
  | DonorProofRecord
  | FiguresRecord
  | FinishedRecord;

/** A ledger as read back. */
export interface Ledger {
  readonly header: HeaderRecord;
  readonly search: SearchRecord | undefined;
  readonly calibration: CalibrationLedgerRecord | undefined;
  /** By name; the last record of a tensor counts. */
  readonly tensors: ReadonlyMap<string, TensorRecord>;
  readonly shards: ReadonlyMap<string, ShardRecord>;
  readonly sideFiles: ReadonlyMap<string, SideFileRecord>;
  /** Every model card that the output has had, the first one first; none where it was asked for none. */
  readonly cards: readonly SideFileRecord[];
  readonly warnings: readonly WarningRecord[];
  /** By shard; the last one of a shard counts. */
  readonly donorHashes: ReadonlyMap<string, DonorHashRecord>;
  readonly donorProofs: ReadonlyMap<string, DonorProofRecord>;
  readonly figures: Figures | undefined;
  readonly finished: FinishedRecord | undefined;
  /** Bytes up to the last whole record; a killed run may leave half a line behind. */
  readonly wholeByteLength: number;
}

/** Appends records; each is one write of one line. */
export class LedgerWriter {
  private position: number;
  private queue: Promise<void> = Promise.resolve();

  private constructor(
    private readonly file: OpenFile,
    private readonly path: string,
    start: number,
  ) {
    this.position = start;
  }

  /** Continue a ledger after `wholeByteLength` bytes; what a killed run left of a line behind them is cut off. */
  static async open(path: string, wholeByteLength: number, files: FileLayer = nodeFiles): Promise<LedgerWriter> {
    let file: OpenFile;
    try {
      file = await files.open(path, wholeByteLength === 0 ? "w" : "r+");
    } catch (error) {
      throw ioError("opening the ledger", path, error);
    }
    try {
      await file.truncate(wholeByteLength);
    } catch (error) {
      await closeQuietly(file);
      throw ioError("shortening the ledger", path, error);
    }
    return new LedgerWriter(file, path, wholeByteLength);
  }

  /** Records are written in the order of the calls, whole or (on an error) cut off again by the next run. */
  append(record: LedgerRecord): Promise<void> {
    const line = new TextEncoder().encode(`${JSON.stringify(record)}\n`);
    const start = this.position;
    this.position += line.byteLength;
    this.queue = this.queue.then(() => writeFully(this.file, line, start, this.path));
    return this.queue;
  }

  async sync(): Promise<void> {
    await this.queue;
    try {
      await this.file.sync();
    } catch (error) {
      throw ioError("flushing", this.path, error);
    }
  }

  /** Lets appends under way end first. */
  async close(): Promise<void> {
    await this.queue.catch(() => {});
    await closeWritten(this.file, this.path);
  }
}
