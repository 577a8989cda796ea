import { PhysariumError } from "../errors.js";
import type { DonorHashRecord } from "../record/ledger.js";
import type { FlowContext } from "./flow-run.js";
import type { HashPool } from "./hash-pool.js";
import type { PlannedShard } from "./plan.js";
import type { ShardRange } from "./stream-ranges.js";

/** Bytes between two saved states of a hash: what a killed run may have to fetch again, at most, beside one tensor. */
const SAVE_EVERY_BYTES = 16 << 20;
/** The thread that hashes is told of so many bytes at once: the wire brings some ten thousand at a time. */
const TELL_EVERY_BYTES = 4 << 20;

/**
 * The proof of one shard that comes over the wire: its running hash, its state in the ledger wherever all tensors up to
 * there are recorded, and the last word.
 */
export class ShardProof {
  /** States of the hash by the byte they stand at. */
  private readonly states = new Map<number, string>();
  private savedAt: number;
  /** Up to where the hash was told. */
  private told: number;
  private hashed: Promise<unknown> = Promise.resolve();
  /** Tensors of the shard that are recorded, from its beginning without a gap. */
  private recorded = 0;
  private ended = false;
  private proven = false;
  isRefuted = false;

  private constructor(
    readonly shard: PlannedShard,
    private readonly content: string,
    private readonly hash: HashPool,
    private readonly context: FlowContext,
    /** Where the stream goes on. */
    readonly begin: number,
  ) {
    this.savedAt = begin;
    this.told = begin;
  }

  /** `saved`: the state that a stopped run left. */
  static async begin(
    shard: PlannedShard,
    content: string | undefined,
    saved: DonorHashRecord | undefined,
    hash: HashPool,
    context: FlowContext,
  ): Promise<ShardProof> {
    const { byteLength } = await hash.run({ kind: "begin", content, fileBytes: shard.byteLength, saved });
    if (saved !== undefined && byteLength === 0) {
      throw new PhysariumError(
        "USAGE_RESUME_MISMATCH",
        `${shard.file}: the stopped run's hash of it was saved by another version; start over with --overwrite`,
        { shard: shard.file },
      );
    }
    return new ShardProof(shard, String(content), hash, context, byteLength);
  }

  /** Hash what has come of a range: the first `filled` bytes of `buffer`. */
  add(buffer: SharedArrayBuffer, { begin, end, tensorEnds }: ShardRange, filled: number): void {
    const to = begin + filled;
    if (to - this.told < TELL_EVERY_BYTES && to < end) return;
    const saveAt = tensorEnds.filter((at) => at > this.told && at <= to);
    const answer = this.hash.run({ kind: "add", buffer, firstByte: begin, begin: this.told, end: to, saveAt });
    this.told = to;
    this.hashed = answer.then(({ states }) => {
      for (const [at, state] of states) this.states.set(at, state);
    });
    // Whoever waits for it hears of a failure.
    this.hashed.catch(() => {});
  }

  /** Once what was told is hashed: the buffer may be used for other bytes. */
  async settled(): Promise<void> {
    await this.hashed;
  }

  /** A tensor was recorded, or a state came: save the state of the hash where no tensor before it is open. */
  async advance(): Promise<void> {
    const { tensors, file } = this.shard;
    while (this.recorded < tensors.length && this.context.records.has(tensors[this.recorded].name)) this.recorded++;
    const last = tensors[this.recorded - 1];
    if (last !== undefined) {
      const end = last.byteOffset + last.byteLength;
      const state = this.states.get(end);
      if (state !== undefined && end - this.savedAt >= SAVE_EVERY_BYTES) {
        this.savedAt = end;
        for (const at of this.states.keys()) if (at <= end) this.states.delete(at);
        const at = new Date().toISOString();
        await this.context.append({ kind: "donor_hash", at, file, byte_length: end, state });
      }
    }
    if (!this.ended || this.proven || this.recorded < tensors.length) return;
    this.proven = true;
    const { byteLength: byte_length } = this.shard;
    await this.context.append({
      ...{ kind: "donor_proof", at: new Date().toISOString() },
      ...{ file, byte_length, content: this.content },
    });
  }

  /** All bytes came. Throws `HUB_HASH` where they are not what the source states. */
  async end(): Promise<void> {
    const { isProven } = await this.hash.run({ kind: "end" });
    if (!isProven) {
      this.isRefuted = true;
      throw this.refusal();
    }
    this.ended = true;
    await this.advance();
  }

  /** Behind the last piece: no shard may go without its proof. */
  async finish(): Promise<void> {
    await this.advance();
    if (!this.proven) throw new PhysariumError("INTERNAL", `${this.shard.file}: its bytes were not proven`);
  }

  refusal(): PhysariumError {
    return new PhysariumError(
      "HUB_HASH",
      `${this.shard.file}: came with another hash than the Hub states (${this.content}); a proxy or mirror may alter ` +
        "it; what was made of it is thrown away, run again with --resume to fetch it once more",
      { shard: this.shard.file, expected: this.content },
    );
  }
}
