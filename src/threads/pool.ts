import { Worker } from "node:worker_threads";
import { fromPlainError, PhysariumError, type PlainError } from "../errors.js";
import { addressSpaceTaken, processLimit } from "../limits.js";

/**
 * Runs jobs on threads, or in this one, a bounded number at once, in any order of completion. Each job in flight holds
 * a slot: an index below `slotsPerThread` that is its own on its thread, for buffers.
 */
export interface Pool<Job, Result> {
  /** Jobs that may be in flight. */
  readonly capacity: number;
  /** True where `close` ends jobs in flight, so that nobody needs to wait for them on Ctrl-C. */
  readonly endsJobsOnClose: boolean;
  run(job: Job): Promise<Result>;
  /** The same job on every thread, while none is in flight: to collect what threads gathered. */
  runOnEach(job: Job): Promise<Result[]>;
  close(): Promise<void>;
}

/** What a thread does with a job. */
export type JobHandler<Job, Result> = (job: Job, slot: number) => Promise<Result>;

export interface JobMessage<Job> {
  readonly id: number;
  readonly job: Job;
  readonly slot: number;
}

/** No more jobs come: the thread ends itself when those in flight have ended. */
export interface CloseMessage {
  readonly type: "close";
}

export type AnswerMessage<Result> =
  | { readonly type: "ready" }
  | { readonly type: "result"; readonly id: number; readonly slot: number; readonly result: Result }
  | { readonly type: "failed"; readonly error: PlainError };

/** The same jobs in the calling thread: for tiny work, and for tests that break the file layer. */
export function inlinePool<Job, Result>(
  handler: JobHandler<Job, Result>,
  slots: number,
  close: () => Promise<void>,
): Pool<Job, Result> {
  const freeSlots = Array.from({ length: slots }, (_, slot) => slot);
  const run = async (job: Job): Promise<Result> => {
    const slot = takeSlot(freeSlots);
    try {
      return await handler(job, slot);
    } finally {
      freeSlots.push(slot);
    }
  };
  return { capacity: slots, endsJobsOnClose: false, run, runOnEach: async (job) => [await run(job)], close };
}

/** V8 reserves some 10 GiB for each memory of a kernel (it uses little of it), and a thread has two at most. */
const ADDRESSES_PER_THREAD = 22 * 2 ** 30;

/** V8 ends the whole process where it may not reserve what a thread takes. */
function requireAddressSpace(threads: number): void {
  const limit = processLimit("Max address space");
  if (addressSpaceTaken() + threads * ADDRESSES_PER_THREAD <= limit) return;
  const mebibytes = Math.floor(limit / 2 ** 20);
  throw new PhysariumError(
    "USAGE_LIMIT",
    `this process may have ${mebibytes} MiB of address space, and its ${threads} threads reserve some ` +
      `${(threads * ADDRESSES_PER_THREAD) / 2 ** 30} GiB (of which they use little); allow more with ulimit -v ` +
      "unlimited, or work in one thread with --workers 0",
    { limit, threads },
  );
}

/**
 * Start `count` threads of the module at `url`, which must call `serveJobs`. `workerData` is what it needs to begin.
 * A thread that fails or dies fails every job, with its cause: an error, never a hang. Throws `USAGE_LIMIT`.
 */
export async function threadPool<Job, Result>(
  url: URL,
  workerData: unknown,
  count: number,
  slotsPerThread: number,
): Promise<Pool<Job, Result>> {
  requireAddressSpace(count);
  const threads = Array.from(
    { length: count },
    (): Thread => ({
      worker: new Worker(url, { workerData }),
      freeSlots: Array.from({ length: slotsPerThread }, (_, slot) => slot),
    }),
  );
  const pool = new ThreadPool<Job, Result>(threads, slotsPerThread);
  try {
    await pool.ready;
  } catch (error) {
    await pool.close();
    throw error;
  }
  return pool;
}

interface Thread {
  readonly worker: Worker;
  readonly freeSlots: number[];
}

interface Waiting<Result> {
  resolve(result: Result): void;
  reject(error: Error): void;
}

class ThreadPool<Job, Result> implements Pool<Job, Result> {
  readonly capacity: number;
  readonly endsJobsOnClose = true;
  readonly ready: Promise<unknown>;
  private readonly waiting = new Map<number, Waiting<Result>>();
  private nextId = 0;
  private failure: Error | undefined;
  private closing = false;

  constructor(
    private readonly threads: readonly Thread[],
    slotsPerThread: number,
  ) {
    this.capacity = threads.length * slotsPerThread;
    this.ready = Promise.all(threads.map((thread) => this.attach(thread)));
  }

  run(job: Job): Promise<Result> {
    // The thread with most free slots: the pieces of one huge tensor spread over all of them.
    return this.send(
      job,
      this.threads.reduce((best, other) => (other.freeSlots.length > best.freeSlots.length ? other : best)),
    );
  }

  runOnEach(job: Job): Promise<Result[]> {
    return Promise.all(this.threads.map((thread) => this.send(job, thread)));
  }

  async close(): Promise<void> {
    this.closing = true;
    await Promise.all(this.threads.map(({ worker }) => endThread(worker)));
    this.failAll(new PhysariumError("INTERNAL", "the worker threads were ended"));
  }

  private failAll(error: Error): void {
    this.failure ??= error;
    for (const { reject } of this.waiting.values()) reject(this.failure);
    this.waiting.clear();
  }

  private send(job: Job, thread: Thread): Promise<Result> {
    if (this.failure !== undefined) return Promise.reject(this.failure);
    const message: JobMessage<Job> = { id: this.nextId++, job, slot: takeSlot(thread.freeSlots) };
    thread.worker.postMessage(message);
    return new Promise((resolve, reject) => this.waiting.set(message.id, { resolve, reject }));
  }

  private attach({ worker, freeSlots }: Thread): Promise<void> {
    return new Promise((ready, failed) => {
      const die = (error: Error) => {
        this.failAll(error);
        failed(error);
      };
      worker.on("message", (message: AnswerMessage<Result>) => {
        if (message.type === "ready") ready();
        else if (message.type === "failed") die(fromPlainError(message.error));
        else {
          freeSlots.push(message.slot);
          this.waiting.get(message.id)?.resolve(message.result);
          this.waiting.delete(message.id);
        }
      });
      worker.on("error", (error: Error) =>
        die(new PhysariumError("INTERNAL", `a worker thread failed: ${error.message}`, {}, error)),
      );
      worker.on("messageerror", (error: Error) =>
        die(new PhysariumError("INTERNAL", `an answer of a worker thread cannot be read: ${error.message}`, {}, error)),
      );
      worker.on("exit", (code) => {
        if (!this.closing) die(new PhysariumError("INTERNAL", `a worker thread ended unexpectedly with code ${code}`));
      });
    });
  }
}

/** Give a thread that much time to close its files, then end it: nobody waits longer on Ctrl-C. */
const CLOSING_MS = 250;

async function endThread(worker: Worker): Promise<void> {
  if (worker.threadId < 0) return;
  let timer: NodeJS.Timeout | undefined;
  const ended = new Promise((resolve) => worker.once("exit", resolve));
  const late = new Promise((resolve) => {
    timer = setTimeout(resolve, CLOSING_MS);
  });
  worker.postMessage({ type: "close" } satisfies CloseMessage);
  await Promise.race([ended, late]);
  clearTimeout(timer);
  await worker.terminate();
}

function takeSlot(freeSlots: number[]): number {
  const slot = freeSlots.pop();
  if (slot === undefined) throw new PhysariumError("INTERNAL", "more jobs than slots");
  return slot;
}
