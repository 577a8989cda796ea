import { Worker } from "node:worker_threads";
import { fromPlainError, PhysariumError } from "../errors.js";
import type { BandReply, BandTask, EncodedBand } from "./band-protocol.js";
import { BandTasks } from "./band-tasks.js";

interface Job {
  readonly task: BandTask;
  resolve(result: EncodedBand | undefined): void;
  reject(error: unknown): void;
}

interface Thread {
  readonly worker: Worker;
  job: Job | undefined;
}

/**
 * Worker threads that code and decode bands. A thread gets one task at a time; the caller bounds how many wait
 * (`inFlight` is a good number: every thread busy, one more task each at hand). Without workers the caller's thread does it.
 */
export class BandPool {
  readonly inFlight: number;
  private readonly threads: Thread[];
  private readonly queue: Job[] = [];
  /** The caller's own thread's tasks, one after the other. */
  private inline: Promise<BandTasks> | undefined;
  private closed = false;
  /** A thread that ended by itself ends the pool: what it was told cannot be told again. */
  private failure: unknown;

  constructor(workers: number) {
    this.inFlight = Math.max(1, 2 * workers);
    this.threads = Array.from({ length: workers }, () => this.startThread());
  }

  run(task: BandTask): Promise<EncodedBand | undefined> {
    if (this.threads.length === 0) return this.runInline(task);
    if (this.failure !== undefined) return Promise.reject(this.failure);
    return new Promise((resolve, reject) => {
      this.queue.push({ task, resolve, reject });
      this.dispatch();
    });
  }

  /** Have every idle thread close its files; call it when no task is under way. */
  async closeFiles(): Promise<void> {
    const task = { kind: "close" } as const;
    if (this.threads.length === 0) await this.runInline(task);
    if (this.failure !== undefined) throw this.failure;
    await Promise.all(
      this.threads.map((thread) => new Promise((resolve, reject) => this.send(thread, { task, resolve, reject }))),
    );
  }

  async close(): Promise<void> {
    this.closed = true;
    if (this.inline !== undefined) await this.runInline({ kind: "close" });
    await Promise.all(this.threads.map((thread) => thread.worker.terminate()));
  }

  private runInline(task: BandTask): Promise<EncodedBand | undefined> {
    this.inline ??= BandTasks.create();
    const tasks = this.inline;
    const result = tasks.then((ready) => ready.run(task));
    this.inline = result.then(
      () => tasks,
      () => tasks,
    );
    return result;
  }

  private startThread(): Thread {
    const worker = new Worker(new URL("./band-worker.js", import.meta.url));
    const thread: Thread = { worker, job: undefined };
    worker.on("message", (reply: BandReply) => {
      const job = thread.job;
      thread.job = undefined;
      if ("error" in reply) job?.reject(fromPlainError(reply.error));
      else job?.resolve(reply.result);
      this.dispatch();
    });
    const fail = (error: unknown) => {
      if (this.closed) return;
      this.failure ??= error;
      for (const job of [thread.job, ...this.queue.splice(0)]) job?.reject(error);
      thread.job = undefined;
    };
    worker.on("error", fail);
    worker.on("exit", (code) => fail(new PhysariumError("INTERNAL", `a packing thread ended with code ${code}`)));
    return thread;
  }

  private dispatch(): void {
    for (const thread of this.threads) {
      if (thread.job !== undefined) continue;
      const job = this.queue.shift();
      if (job === undefined) return;
      this.send(thread, job);
    }
  }

  private send(thread: Thread, job: Job): void {
    thread.job = job;
    thread.worker.postMessage(job.task);
  }
}
