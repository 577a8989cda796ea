import type { MatrixEngine, RightFactor } from "../../engine/products.js";
import { fromPlainError, type PlainError, refuseStopped } from "../../errors.js";
import { type Pool, threadPool } from "../../threads/pool.js";
import { type RunnableJob, runJobs } from "../../threads/run-jobs.js";
import { TubeArena } from "../stages/tube-arena.js";
import { type BlockResult, type BlockSetup, type BlockTerms, operateBlock, type RowBlock } from "./row-block.js";

/** Runs the stages of the activation flow on blocks of rows, several at once where there are threads for it. */
export interface BlockRunner {
  /** Blocks that are worked on at the same time. */
  readonly width: number;
  /**
   * Operate on all `blocks`; `done` of each is called in any order. Results are the same for any runner whose products
   * are. Throws `STOPPED` soon after `signal` aborts.
   */
  operate(
    setup: BlockSetup,
    blocks: AsyncIterable<RunnableJob<RowBlock, BlockResult>>,
    signal?: AbortSignal,
  ): Promise<void>;
  close(): Promise<void>;
}

/**
 * Blocks side by side on `count` threads that share `threads` between them; with one, or on a device of which there is
 * one, products are `engine`'s.
 */
export async function openBlocks(count: number, threads: number, engine: MatrixEngine): Promise<BlockRunner> {
  const isSplit = count > 1 && engine.device === "cpu";
  return isSplit ? threadedBlocks(count, Math.max(1, Math.floor(threads / count))) : inlineBlocks(engine);
}

/** One block after the other in the calling thread, products on `engine`. */
export function inlineBlocks(engine: MatrixEngine): BlockRunner {
  return {
    width: 1,
    async operate(setup, blocks, signal) {
      const desk = await BlockDesk.open(engine, setup, signal);
      try {
        for await (const { job, done } of blocks) await done(await desk.operate(job));
      } finally {
        await desk.close();
      }
    },
    close: async () => {},
  };
}

/**
 * Blocks side by side on `count` threads, each with an engine of its own that uses `engineThreads`.
 *
 * A thread that is ended in the middle of a product takes the process with it: so threads answer with their errors
 * instead of failing, hear at each product that they should stop, and are closed when none works.
 */
export async function threadedBlocks(count: number, engineThreads: number): Promise<BlockRunner> {
  const stop = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));
  const halt = (): void => void Atomics.store(stop, 0, 1);
  const workerData: BlockWorkerSetup = { engineThreads, stop };
  const url = new URL("./worker.js", import.meta.url);
  const pool: Pool<BlockTask, BlockAnswer> = await threadPool(url, workerData, count, TASKS_PER_THREAD);
  const resultOf = (answer: BlockAnswer): BlockResult | undefined => {
    if (answer.failure === undefined) return answer.result;
    halt();
    throw fromPlainError(answer.failure);
  };
  return {
    width: count,
    async operate(setup, blocks, signal) {
      const coupling = new Float32Array(new SharedArrayBuffer(setup.coupling.byteLength));
      coupling.set(setup.coupling);
      Atomics.store(stop, 0, signal?.aborted ? 1 : 0);
      signal?.addEventListener("abort", halt);
      try {
        for (const answer of await pool.runOnEach({ kind: "open", setup: { ...setup, coupling } })) resultOf(answer);
        await runJobs(tasksOf(blocks, resultOf), pool);
      } finally {
        signal?.removeEventListener("abort", halt);
        await pool.runOnEach({ kind: "close" });
      }
    },
    close: () => pool.close(),
  };
}

/** A second block waits at each thread while the first is worked on: no thread waits for the one that makes them. */
const TASKS_PER_THREAD = 2;

export interface BlockWorkerSetup {
  readonly engineThreads: number;
  /** Shared: once it holds 1, threads stop at their next product. */
  readonly stop: Int32Array;
}

export type BlockTask =
  | { readonly kind: "open"; readonly setup: BlockSetup }
  | { readonly kind: "block"; readonly block: RowBlock }
  | { readonly kind: "close" };

export interface BlockAnswer {
  /** Of a block. */
  readonly result?: BlockResult;
  readonly failure?: PlainError;
}

async function* tasksOf(
  blocks: AsyncIterable<RunnableJob<RowBlock, BlockResult>>,
  resultOf: (answer: BlockAnswer) => BlockResult | undefined,
): AsyncGenerator<RunnableJob<BlockTask, BlockAnswer>> {
  for await (const { job, done } of blocks) {
    yield { job: { kind: "block", block: job }, done: (answer) => done(resultOf(answer)!) };
  }
}

/**
 * Arenas between uses: their memory is as large as the largest block so far, and making one costs a page fault a page.
 */
const arenas: TubeArena[] = [];

/** A setup in use: its coupling bound (and not held twice), and room for one block. */
export class BlockDesk {
  private constructor(
    private readonly terms: BlockTerms,
    private readonly coupling: RightFactor,
    private readonly arena: TubeArena,
  ) {}

  /** `signal` ends a block at its next product. */
  static async open(
    engine: MatrixEngine,
    setup: BlockSetup,
    signal?: Pick<AbortSignal, "aborted">,
  ): Promise<BlockDesk> {
    const { coupling, ...terms } = setup;
    const factor = await engine.bind(coupling, terms.cols, terms.cols);
    const heard: RightFactor = {
      ...factor,
      multiply(left, leftRows, out) {
        refuseStopped(signal);
        return factor.multiply(left, leftRows, out);
      },
    };
    return new BlockDesk(terms, heard, arenas.pop() ?? new TubeArena());
  }

  operate(block: RowBlock): Promise<BlockResult> {
    return operateBlock(block, this.terms, this.coupling, this.arena);
  }

  async close(): Promise<void> {
    arenas.push(this.arena);
    await this.coupling.release();
  }
}
