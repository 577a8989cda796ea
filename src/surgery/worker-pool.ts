import { Worker } from "node:worker_threads";
import type { FileLayer } from "../checkpoint/file-layer.js";
import { fromPlainError, PhysariumError } from "../errors.js";
import { DRIVE_BINS } from "../flow/drive-histogram.js";
import { type OperatorSetup, PieceOperator } from "./piece-operator.js";
import type { FromWorker, PieceJob, PieceResult, ToWorker, WorkerSetup } from "./protocol.js";

/** Runs jobs on threads (or in this one), a bounded number at once, in any order of completion. */
export interface WorkerPool {
  /** Jobs that may be in flight. */
  readonly capacity: number;
  run(job: PieceJob): Promise<PieceResult>;
  /** Add the drives counted by all workers (task `count`). */
  takeHistogram(into: Float64Array): Promise<void>;
  close(): Promise<void>;
}

export async function createPool(
  count: number,
  module: WebAssembly.Module,
  setup: OperatorSetup,
  files: FileLayer,
): Promise<WorkerPool> {
  return count === 0 ? InlinePool.create(module, setup, files) : ThreadPool.create(count, module, setup);
}

/** The same jobs in the calling thread: for tiny donors, and for tests that break the file layer. */
class InlinePool implements WorkerPool {
  private readonly freeSlots: number[];

  private constructor(
    private readonly operator: PieceOperator,
    readonly capacity: number,
  ) {
    this.freeSlots = Array.from({ length: capacity }, (_, slot) => slot);
  }

  static async create(module: WebAssembly.Module, setup: OperatorSetup, files: FileLayer): Promise<InlinePool> {
    return new InlinePool(await PieceOperator.create(module, setup, files), setup.sizes.slotCount);
  }

  async run(job: PieceJob): Promise<PieceResult> {
    const slot = this.freeSlots.pop();
    if (slot === undefined) throw new PhysariumError("INTERNAL", "more jobs than slots");
    try {
      return await this.operator.run(job, slot);
    } finally {
      this.freeSlots.push(slot);
    }
  }

  async takeHistogram(into: Float64Array): Promise<void> {
    this.operator.takeHistogram(into);
  }

  close(): Promise<void> {
    return this.operator.close();
  }
}

interface Thread {
  readonly worker: Worker;
  readonly freeSlots: number[];
}

interface Waiting<T> {
  resolve(value: T): void;
  reject(error: Error): void;
}

class ThreadPool implements WorkerPool {
  private readonly waiting = new Map<number, Waiting<PieceResult>>();
  private readonly asked: Waiting<Float64Array>[] = [];
  private failure: Error | undefined;
  private closing = false;

  private constructor(
    private readonly threads: readonly Thread[],
    private readonly slotCount: number,
  ) {}

  get capacity(): number {
    return this.threads.length * this.slotCount;
  }

  static async create(count: number, module: WebAssembly.Module, operator: OperatorSetup): Promise<ThreadPool> {
    const { slotCount } = operator.sizes;
    const workerData: WorkerSetup = { module, operator };
    const threads = Array.from({ length: count }, (): Thread => {
      const worker = new Worker(new URL("./worker.js", import.meta.url), { workerData });
      return { worker, freeSlots: Array.from({ length: slotCount }, (_, slot) => slot) };
    });
    const pool = new ThreadPool(threads, slotCount);
    const ready = threads.map((thread) => pool.attach(thread));
    try {
      await Promise.all(ready);
    } catch (error) {
      await pool.close();
      throw error;
    }
    return pool;
  }

  run(job: PieceJob): Promise<PieceResult> {
    if (this.failure !== undefined) return Promise.reject(this.failure);
    // The thread with most free slots: pieces of one huge tensor spread over all of them.
    const thread = this.threads.reduce((best, other) =>
      other.freeSlots.length > best.freeSlots.length ? other : best,
    );
    const slot = thread.freeSlots.pop();
    if (slot === undefined) return Promise.reject(new PhysariumError("INTERNAL", "more jobs than slots"));
    const message: ToWorker = { type: "job", job, slot };
    thread.worker.postMessage(message);
    return new Promise((resolve, reject) => this.waiting.set(job.id, { resolve, reject }));
  }

  async takeHistogram(into: Float64Array): Promise<void> {
    for (const { worker } of this.threads) {
      if (this.failure !== undefined) throw this.failure;
      const message: ToWorker = { type: "histogram" };
      worker.postMessage(message);
      const histogram = await new Promise<Float64Array>((resolve, reject) => this.asked.push({ resolve, reject }));
      for (let bin = 0; bin < DRIVE_BINS; bin++) into[bin] += histogram[bin];
    }
  }

  async close(): Promise<void> {
    this.closing = true;
    await Promise.all(this.threads.map(({ worker }) => worker.terminate()));
  }

  private attach(thread: Thread): Promise<void> {
    const { worker } = thread;
    return new Promise((ready, failed) => {
      worker.on("message", (message: FromWorker) => {
        if (message.type === "ready") ready();
        else if (message.type === "histogram") this.asked.shift()?.resolve(message.histogram);
        else if (message.type === "failed") this.fail(fromPlainError(message.error));
        else {
          thread.freeSlots.push(message.slot);
          const waiting = this.waiting.get(message.result.id);
          this.waiting.delete(message.result.id);
          waiting?.resolve(message.result);
        }
      });
      // A worker that dies is an error with its cause, not a hang.
      const die = (message: string, cause?: unknown) => {
        this.fail(new PhysariumError("INTERNAL", message, {}, cause));
        failed(this.failure);
      };
      worker.on("error", (error: Error) => die(`a worker thread failed: ${error.message}`, error));
      worker.on("exit", (code) => {
        if (!this.closing) die(`a worker thread ended unexpectedly with code ${code}`);
      });
    });
  }

  private fail(error: Error): void {
    this.failure ??= error;
    for (const { reject } of [...this.waiting.values(), ...this.asked]) reject(this.failure);
    this.waiting.clear();
    this.asked.length = 0;
  }
}
