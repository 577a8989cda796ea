import { PhysariumError } from "../errors.js";
import type { DonorHashRecord } from "../record/ledger.js";
import { inlinePool, type Pool, threadPool } from "../threads/pool.js";
import { DonorHash } from "./donor-hash.js";

/** What a shard's bytes are asked of the thread that hashes them, in this order; one shard at a time. */
export type HashJob =
  | {
      readonly kind: "begin";
      readonly content: string | undefined;
      readonly fileBytes: number;
      readonly saved: DonorHashRecord | undefined;
    }
  | {
      readonly kind: "add";
      readonly buffer: SharedArrayBuffer;
      /** Where `buffer` begins in the file, and the stretch of the file that is to be hashed now. */
      readonly firstByte: number;
      readonly begin: number;
      readonly end: number;
      /** Where the state is to be saved, ascending, within the stretch. */
      readonly saveAt: readonly number[];
    }
  | { readonly kind: "end" };

export interface HashAnswer {
  /** Bytes hashed so far. */
  readonly byteLength: number;
  readonly states: readonly (readonly [at: number, state: string])[];
  /** Answer to `end`. */
  readonly isProven: boolean;
}

export type HashPool = Pool<HashJob, HashAnswer>;

/** Stretches of one range that may wait for the thread. */
const MAX_WAITING = 256;

/** A thread that hashes, beside the one that listens to the wire; with 0 workers this thread does it. */
export function createHashPool(workers: number): Promise<HashPool> | HashPool {
  if (workers === 0) return inlinePool(hashHandler(), MAX_WAITING, async () => {});
  return threadPool(new URL("./hash-worker.js", import.meta.url), undefined, 1, MAX_WAITING);
}

export function hashHandler(): (job: HashJob) => Promise<HashAnswer> {
  let hash: DonorHash | undefined;
  // Jobs come in order; the library that hashes is loaded once.
  let turn: Promise<unknown> = Promise.resolve();
  const work = async (job: HashJob): Promise<HashAnswer> => {
    if (job.kind === "begin") hash = await DonorHash.begin(job.content, job.fileBytes, job.saved);
    if (hash === undefined) throw new PhysariumError("INTERNAL", "a hash that did not begin was asked for");
    const states: [number, string][] = [];
    if (job.kind === "add") {
      const { buffer, firstByte, begin, end } = job;
      let at = begin;
      const hashTo = (to: number): void => {
        hash!.add(new Uint8Array(buffer, at - firstByte, to - at));
        at = to;
      };
      for (const save of job.saveAt) {
        hashTo(save);
        states.push([save, hash.save()]);
      }
      hashTo(end);
    }
    return { byteLength: hash.byteLength, states, isProven: job.kind === "end" && hash.isProven() };
  };
  return (job) => {
    const answer = turn.then(() => work(job));
    turn = answer.catch(() => {});
    return answer;
  };
}
