import { PhysariumError } from "../errors.js";
import type { DonorHash } from "./donor-hash.js";
import type { FlowContext } from "./flow-run.js";
import type { PlannedShard } from "./plan.js";

/** Bytes between two saved states of a hash: what a killed run may have to fetch again, at most, beside one tensor. */
const SAVE_EVERY_BYTES = 16 << 20;

/**
 * The proof of one shard that comes over the wire: its running hash, its state in the ledger wherever all tensors up to
 * there are recorded, and the last word.
 */
export class ShardProof {
  /** States of the hash by the byte they stand at. */
  private readonly states = new Map<number, string>();
  private savedAt: number;
  /** Tensors of the shard that are recorded, from its beginning without a gap. */
  private recorded = 0;
  private ended = false;
  private proven = false;
  isRefuted = false;

  constructor(
    readonly shard: PlannedShard,
    private readonly hash: DonorHash,
    private readonly content: string,
    private readonly context: FlowContext,
  ) {
    this.savedAt = hash.byteLength;
  }

  /** Where the stream goes on. */
  get byteLength(): number {
    return this.hash.byteLength;
  }

  /** Hash what has come of a range: `filled` bytes of `bytes`, which begin at `begin`. */
  add(bytes: Uint8Array, begin: number, filled: number, tensorEnds: readonly number[]): void {
    for (const end of [...tensorEnds, Number.POSITIVE_INFINITY]) {
      const from = this.hash.byteLength - begin;
      const to = Math.min(filled, end - begin);
      if (to > from) this.hash.add(bytes.subarray(from, to));
      if (this.hash.byteLength === end) this.states.set(end, this.hash.save());
      if (to === filled) return;
    }
  }

  /** A tensor was recorded: save the state of the hash where no tensor before it is open. */
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
    if (!this.hash.isProven()) {
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
