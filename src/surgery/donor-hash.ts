import { createSHA1, createSHA256, type IHasher } from "hash-wasm";
import { PhysariumError } from "../errors.js";
import type { DonorHashRecord } from "../record/ledger.js";

/**
 * The running hash of one shard as its source states it, whose state can be saved and gone on from in another process.
 */
export class DonorHash {
  private constructor(
    private readonly hasher: IHasher,
    private readonly expected: string,
    /** Bytes hashed so far. */
    public byteLength: number,
  ) {}

  /**
   * content    what the source states: `sha256:` or `git-sha1:` and the digits
   * fileBytes  length of the whole file
   * saved      what an earlier run recorded; a state that cannot be read begins anew, at byte 0
   */
  static async begin(content: string | undefined, fileBytes: number, saved?: DonorHashRecord): Promise<DonorHash> {
    const match = /^(sha256|git-sha1):([0-9a-f]{40,64})$/.exec(content ?? "");
    if (match === null) {
      throw new PhysariumError("INTERNAL", `a donor without a stated hash (${content ?? "none"}) cannot be streamed`);
    }
    const hasher = await (match[1] === "sha256" ? createSHA256() : createSHA1());
    if (saved !== undefined) {
      try {
        hasher.load(Buffer.from(saved.state, "base64"));
        return new DonorHash(hasher, match[2], saved.byte_length);
      } catch {
        // Another version of the library: its state is another's.
      }
    }
    hasher.init();
    // What git hashes of a blob: its kind and length, then its bytes.
    if (match[1] === "git-sha1") hasher.update(`blob ${fileBytes}\0`);
    return new DonorHash(hasher, match[2], 0);
  }

  add(bytes: Uint8Array): void {
    this.hasher.update(bytes);
    this.byteLength += bytes.byteLength;
  }

  /** The state so far, in base64. */
  save(): string {
    return Buffer.from(this.hasher.save()).toString("base64");
  }

  /** Ends the hash: true where the bytes are those that the source states. */
  isProven(): boolean {
    return this.hasher.digest("hex") === this.expected;
  }
}
