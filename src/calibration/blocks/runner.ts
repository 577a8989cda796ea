import { refuseStopped } from "../../errors.js";
import { type Pool, threadPool } from "../../threads/pool.js";
import { type RunnableJob, runJobs } from "../../threads/run-jobs.js";
import type { MatrixEngine, RightFactor } from "../engine.js";
import { TubeArena } from "../stages/tube-arena.js";
import { type BlockResult, type BlockSetup, type BlockTerms, operateBlock, type RowBlock } from "./block.js";

/** Runs the stages of the activation flow on blocks of rows, several at once where there are threads for it. */
export interface BlockRunner {
  /** Blocks that are worked on at the same time. */
  readonly width: number;
  /**
   * Operate on all `blocks`; `done` of each is called in any order. Results are the same for any runner whose products are. Throws `STOPPED` soon after
   * `signal` aborts; a runner with threads is good for nothing but closing then.
   */
  operate(
    setup: BlockSetup,
    blocks: AsyncIterable<RunnableJob<RowBlock, BlockResult>>,
    signal?: AbortSignal,
  ): Promise<void>;
  close(): Promise<void>;
}

/** Blocks side by side on `count` threads that share `threads` between them; with one, products are `engine`'s. */
export async function openBlocks(count: number, threads: number, engine: MatrixEngine): Promise<BlockRunner> {
  return count > 1 ? threadedBlocks(count, Math.max(1, Math.floor(threads / count))) : inlineBlocks(engine);
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

/** Blocks side by side on `count` threads, each with an engine of its own that uses `engineThreads`. */
export async function threadedBlocks(count: number, engineThreads: number): Promise<BlockRunner> {
  const setup: BlockWorkerSetup = { engineThreads };
  const pool: Pool<BlockTask, BlockResult | undefined> = await threadPool(
    new URL("./worker.js", import.meta.url),
    setup,
    count,
    TASKS_PER_THREAD,
  );
  return {
    width: count,
    async operate(setup, blocks, signal) {
      const coupling = new Float32Array(new SharedArrayBuffer(setup.coupling.byteLength));
      coupling.set(setup.coupling);
      await pool.runOnEach({ kind: "open", setup: { ...setup, coupling } });
      await runJobs(tasksOf(blocks), pool, signal);
      await pool.runOnEach({ kind: "close" });
    },
    close: () => pool.close(),
  };
}

/** A second block waits at each thread while the first is worked on: no thread waits for the one that makes them. */
const TASKS_PER_THREAD = 2;

export interface BlockWorkerSetup {
  readonly engineThreads: number;
}

export type BlockTask =
  | { readonly kind: "open"; readonly setup: BlockSetup }
  | { readonly kind: "block"; readonly block: RowBlock }
  | { readonly kind: "close" };

async function* tasksOf(
  blocks: AsyncIterable<RunnableJob<RowBlock, BlockResult>>,
): AsyncGenerator<RunnableJob<BlockTask, BlockResult | undefined>> {
  for await (const { job, done } of blocks) {
    yield { job: { kind: "block", block: job }, done: (result) => done(result!) };
  }
}

/** Arenas between uses: their memory is as large as the largest block so far, and making one costs a page fault a page. */
const arenas: TubeArena[] = [];

/** A setup in use: its coupling bound (and not held twice), and room for one block. */
export class BlockDesk {
  private constructor(
    private readonly terms: BlockTerms,
    private readonly coupling: RightFactor,
    private readonly arena: TubeArena,
  ) {}

  /** `signal` ends a block at its next product. */
  static async open(engine: MatrixEngine, setup: BlockSetup, signal?: AbortSignal): Promise<BlockDesk> {
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
