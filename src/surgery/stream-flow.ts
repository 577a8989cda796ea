import { join } from "node:path";
import { refuseStopped, stopped } from "../errors.js";
import type { FlowParams } from "../flow/params.js";
import type { DonorHashRecord, DonorProofRecord, Ledger, LedgerRecord } from "../record/ledger.js";
import { runJobs } from "../threads/run-jobs.js";
import { Channel, Lending } from "./channel.js";
import type { FlowContext } from "./flow-run.js";
import { createHashPool } from "./hash-pool.js";
import { directOutputs } from "./passages.js";
import { type PieceWork, pieceWork } from "./piece-work.js";
import type { Plan, PlannedShard, PlannedTensor } from "./plan.js";
import { ShardProof } from "./shard-proof.js";
import { BUFFERS, largestRange } from "./stream-plan.js";
import { rangesOf } from "./stream-ranges.js";
import type { TensorProgress } from "./tensor-progress.js";
import { TileFlow } from "./tile-flow.js";

const SHARDS_IN_FLIGHT = 2;

/**
 * v1 and balanced on a donor that is nowhere on a disk: ranges of two shards come over the wire into shared memory, are
 * hashed as they come, and feed the kernels. A shard counts when all of it came and its hash is the one that the source
 * states; a stopped run goes on from the last saved state of the hash, and what was made of bytes behind it is made
 * again, since nobody could prove it.
 */
export class StreamFlow extends TileFlow {
  declare protected readonly plan: Plan;
  /** Where each shard goes on, by file. */
  private readonly resumed = new Map<string, { readonly hash?: DonorHashRecord; readonly proof?: DonorProofRecord }>();

  protected override async direct({ folder }: FlowContext): Promise<string[]> {
    return directOutputs(this.plan, folder);
  }

  /** Of what a stopped run made only that counts whose donor bytes the saved hash covers, whole and undamaged. */
  override async check(
    tensors: Iterable<PlannedTensor>,
    context: FlowContext,
    checked: (progress: TensorProgress) => void,
  ): Promise<void> {
    const claimed = new Set([...tensors].map(({ name }) => name));
    const { donorHashes, donorProofs, tensors: recorded } = context.stopped as Ledger;
    const candidates = new Map<string, PlannedTensor[]>();
    for (const shard of this.plan.shards) {
      const [hash, proof] = [donorHashes.get(shard.file), donorProofs.get(shard.file)];
      const limit = proof === undefined ? (hash?.byte_length ?? 0) : shard.byteLength;
      const covered = shard.tensors.filter(({ byteOffset, byteLength }) => byteOffset + byteLength <= limit);
      if (limit > 0 && covered.every(({ name }) => claimed.has(name))) candidates.set(shard.file, covered);
    }
    const seen = new Map<string, TensorProgress>();
    await super.check([...candidates.values()].flat(), context, (progress) => seen.set(progress.tensor.name, progress));
    for (const [file, covered] of candidates) {
      const isWhole = covered.every(
        ({ name }) => seen.get(name)!.digest(context.digester) === recorded.get(name)!.digest,
      );
      if (!isWhole) continue;
      for (const { name } of covered) checked(seen.get(name)!);
      this.resumed.set(file, { hash: donorHashes.get(file), proof: donorProofs.get(file) });
    }
  }

  keep(): LedgerRecord[] {
    return [...this.resumed.values()].flatMap(({ hash, proof }) => [hash, proof].filter((each) => each !== undefined));
  }

  override async operate(
    tensors: AsyncIterable<PlannedTensor>,
    params: FlowParams,
    context: FlowContext,
  ): Promise<void> {
    // Every shard stands at full length, with its header, before the first byte of weights comes.
    const open = new Map<string, PlannedTensor[]>();
    for await (const tensor of tensors) open.set(tensor.shard, [...(open.get(tensor.shard) ?? []), tensor]);
    const queue = this.plan.shards.filter(({ file }) => this.resumed.get(file)?.proof === undefined);
    const size = largestRange(this.plan);
    const buffers = new Lending(Array.from({ length: BUFFERS }, () => new SharedArrayBuffer(size)));
    const stop = new AbortController();
    stop.signal.addEventListener("abort", () => buffers.close(stop.signal.reason), { once: true });
    const signal = AbortSignal.any([stop.signal, ...(context.signal === undefined ? [] : [context.signal])]);
    const works = new Channel<PieceWork>();
    const proofs: ShardProof[] = [];
    const lane = async (): Promise<void> => {
      const hash = await createHashPool(this.plan.memory.workers);
      try {
        for (let shard = queue.shift(); shard !== undefined; shard = queue.shift()) {
          refuseStopped(signal);
          const { content } = await this.plan.model.source.identity(shard.file);
          const saved = this.resumed.get(shard.file)?.hash;
          const proof = await ShardProof.begin(shard, content, saved, hash, context);
          proofs.push(proof);
          await this.stream(shard, open.get(shard.file) ?? [], proof, { context, buffers, works, signal });
        }
      } finally {
        await hash.close();
      }
    };
    const lanes = Promise.all(Array.from({ length: SHARDS_IN_FLIGHT }, lane)).then(
      () => works.end(),
      (error: unknown) => {
        works.fail(error);
        stop.abort(error);
      },
    );
    try {
      await this.withPool(params, await this.direct(context), (pool) => runJobs(works, pool, context.signal));
      for (const proof of proofs) await proof.finish();
    } catch (error) {
      const damaged = proofs.find(({ isRefuted }) => isRefuted);
      if (damaged === undefined) throw error;
      // Nothing of it may be taken for done by whoever goes on.
      await this.files.rm(join(context.folder, damaged.shard.file), { force: true });
      throw damaged.refusal();
    } finally {
      stop.abort(stopped());
      await lanes;
    }
  }

  /** One shard from where its hash stands to its end, range by range. */
  private async stream(
    shard: PlannedShard,
    open: readonly PlannedTensor[],
    proof: ShardProof,
    { context, buffers, works, signal }: Wire,
  ): Promise<void> {
    const { plan } = this;
    const file = await plan.model.source.open(shard.file);
    const done = async (progress: TensorProgress): Promise<void> => {
      await context.finish(progress);
      await proof.advance();
    };
    const pieces = pieceWork(plan, open, "operate", context, done);
    let next = await pieces.next();
    for (const range of rangesOf(shard, plan.options.params.blockSize, proof.begin)) {
      const { begin, end } = range;
      const buffer = await buffers.take();
      const bytes = new Uint8Array(buffer, 0, end - begin);
      await file.readInto(bytes, begin, signal, (filled) => proof.add(buffer, range, filled));
      const inRange: PieceWork[] = [];
      while (!next.done && next.value.job.byteOffset + next.value.job.byteLength <= end) {
        inRange.push(next.value);
        next = await pieces.next();
      }
      // Its hash is a user of the buffer, too.
      let users = inRange.length + 1;
      const leave = (): void => {
        if (--users === 0) buffers.giveBack(buffer);
      };
      const hashed = proof.settled().then(leave);
      hashed.then(() => proof.advance()).catch((error: unknown) => works.fail(error));
      for (const { job, done } of inRange) {
        const held = { buffer, firstByte: begin };
        const settle = async (result: Parameters<typeof done>[0]): Promise<void> => {
          leave();
          await done(result);
        };
        works.push({ job: { ...job, held }, done: settle });
      }
    }
    // What is left has no bytes.
    for (; !next.done; next = await pieces.next()) {
      const held = { buffer: new SharedArrayBuffer(0), firstByte: next.value.job.byteOffset };
      works.push({ job: { ...next.value.job, held }, done: next.value.done });
    }
    await file.close();
    await proof.end();
  }
}

/** What a shard's stream shares with the others. */
interface Wire {
  readonly context: FlowContext;
  readonly buffers: Lending<SharedArrayBuffer>;
  readonly works: Channel<PieceWork>;
  readonly signal: AbortSignal;
}
