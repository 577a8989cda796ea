import { type ChildProcess, fork } from "node:child_process";
import type { Socket } from "node:net";
import { fromPlainError, PhysariumError, type PlainError, refuseStopped, stopped } from "../../errors.js";
import { memoryLimitBytes } from "../memory.js";

/** What a confined process may take; past it the process is ended and its jobs fail. */
export interface Limits {
  /** Bytes of V8's heap. */
  readonly heapBytes: number;
  /** For one job. The process ends a job itself; it is killed where it cannot. */
  readonly jobMilliseconds: number;
}

export const DEFAULT_LIMITS: Limits = { heapBytes: 2 ** 31, jobMilliseconds: 60_000 };

export interface JobMessage<Job> {
  readonly id: number;
  readonly job: Job;
  readonly jobMilliseconds: number;
}

export type AnswerMessage<Result> =
  | { readonly id: number; readonly result: Result }
  | { readonly id: number; readonly error: PlainError };

interface Waiting<Result> {
  resolve(result: Result): void;
  reject(error: Error): void;
  readonly job: unknown;
  readonly timer: NodeJS.Timeout;
}

/** Of what a process writes at its end: the line of a failed library stands at its beginning. */
const MAX_STDERR_CHARACTERS = 4096;

/** Beyond a job's own limit: what a garbage collection or a busy machine may take until the answer is here. */
const GRACE_MILLISECONDS = 10_000;

/**
 * Runs what a foreign file says (patterns, templates, tables of any size) in a process of its own, where it can neither
 * hang nor abort us.
 *
 * A process and not a thread: a thread that reaches its `resourceLimits` with a large allocation aborts all of Node,
 * and a pattern of the native tokenizers library that backtracks too long does the same (both tried). Jobs are answered
 * one after another. Where a limit is broken the process ends, and all jobs that wait fail (`isOver`).
 */
export class ConfinedProcess<Job, Result> {
  private readonly child: ChildProcess;
  private readonly waiting = new Map<number, Waiting<Result>>();
  private readonly stop = (): void => this.end(stopped());
  private nextId = 0;
  private failure: Error | undefined;
  private stderr = "";

  /**
   * `refuse` makes the error of a broken limit: it gets what was broken, in words, and the job that broke it. An abort
   * of `signal` fails all jobs with `STOPPED`.
   */
  constructor(
    url: URL,
    private readonly refuse: (words: string, job: Job | undefined) => PhysariumError,
    private readonly signal?: AbortSignal,
    private readonly limits: Limits = DEFAULT_LIMITS,
  ) {
    const megabytes = Math.max(64, Math.floor(Math.min(limits.heapBytes, memoryLimitBytes() / 2) / 2 ** 20));
    const { NODE_OPTIONS: _, ...env } = process.env;
    this.child = fork(url, {
      serialization: "advanced",
      // V8 and Rust write a page of stack on their way out: one sentence of ours says it.
      stdio: ["ignore", "ignore", "pipe", "ipc"],
      execArgv: [`--max-old-space-size=${megabytes}`, "--stack-size=900"],
      env,
    });
    running.add(this.child);
    this.child.on("message", (message: AnswerMessage<Result>) => this.settle(message));
    this.child.on("error", (error) =>
      this.end(new PhysariumError("INTERNAL", `a process could not be started: ${error.message}`, {}, error)),
    );
    this.child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      this.stderr = (this.stderr + text).slice(0, MAX_STDERR_CHARACTERS);
    });
    this.child.on("close", (code, signalName) => this.end(this.explain(code, signalName, megabytes)));
    this.rest();
    if (signal?.aborted) this.stop();
    else signal?.addEventListener("abort", this.stop, { once: true });
  }

  /** Throws what the job threw, what `refuse` makes of a broken limit, `STOPPED`. */
  run(job: Job): Promise<Result> {
    try {
      refuseStopped(this.signal);
    } catch (error) {
      return Promise.reject(error as Error);
    }
    if (this.failure !== undefined) return Promise.reject(this.failure);
    const { jobMilliseconds } = this.limits;
    const message: JobMessage<Job> = { id: this.nextId++, job, jobMilliseconds };
    const late = (): void => this.end(this.refuse(tooLong(jobMilliseconds), job));
    // Waiting jobs hold Node open; an idle process does not.
    this.child.ref();
    this.child.channel?.ref();
    return new Promise((resolve, reject) => {
      const timer = setTimeout(late, (this.waiting.size + 1) * (jobMilliseconds + GRACE_MILLISECONDS));
      this.waiting.set(message.id, { job, resolve, reject, timer });
      this.child.send(message as object, (error) => {
        if (error !== null && this.failure === undefined) {
          this.end(new PhysariumError("INTERNAL", `a process takes no jobs: ${error.message}`, {}, error));
        }
      });
    });
  }

  /** The process ended; there will be no more answers. */
  get isOver(): boolean {
    return this.failure !== undefined;
  }

  /** Ends the process; jobs that are still waiting fail. */
  close(): void {
    this.end(new PhysariumError("INTERNAL", "the process was ended"));
  }

  private settle(message: AnswerMessage<Result>): void {
    const job = this.waiting.get(message.id);
    if (job === undefined) return;
    if ("error" in message && message.error.code === JOB_TOO_LONG) {
      // Native code cannot be interrupted: it may be at work still.
      this.end(this.refuse(tooLong(this.limits.jobMilliseconds), job.job as Job));
      return;
    }
    clearTimeout(job.timer);
    this.waiting.delete(message.id);
    if (this.waiting.size === 0) this.rest();
    if ("result" in message) job.resolve(message.result);
    else job.reject(fromPlainError(message.error));
  }

  private rest(): void {
    this.child.unref();
    this.child.channel?.unref();
    (this.child.stderr as Socket | null)?.unref();
  }

  private end(error: Error): void {
    this.failure ??= error;
    this.signal?.removeEventListener("abort", this.stop);
    running.delete(this.child);
    if (this.child.exitCode === null && this.child.signalCode === null) this.child.kill("SIGKILL");
    this.rest();
    for (const { reject, timer } of this.waiting.values()) {
      clearTimeout(timer);
      reject(this.failure);
    }
    this.waiting.clear();
  }

  private explain(code: number | null, signalName: string | null, megabytes: number): PhysariumError {
    // Ctrl-C goes to the whole group of a terminal's processes.
    if (signalName === "SIGINT" || signalName === "SIGTERM" || signalName === "SIGHUP") {
      return stopped();
    }
    const ended = signalName === null ? `ended with code ${code}` : `was ended by ${signalName}`;
    // Jobs are answered in order: the oldest was the one at work.
    const [oldest] = this.waiting.values();
    const panic = /panicked at [^\n]*\n([^\n]+)/.exec(this.stderr)?.[1];
    if (panic !== undefined) {
      return this.refuse(
        `fails in the library that runs it: ${panic} (its process ${ended})`,
        oldest?.job as Job | undefined,
      );
    }
    // A program that ends by an error of its own (a module that is gone, say) was not out of memory.
    const error = signalName === null ? /^\w*Error\b[^\n]*/m.exec(this.stderr)?.[0] : undefined;
    if (error !== undefined && !OUT_OF_MEMORY.test(error)) {
      return new PhysariumError("INTERNAL", `a process of ours ${ended}: ${error}`);
    }
    const limit = memoryLimitBytes();
    const may =
      this.limits.heapBytes <= limit / 2
        ? "it may take"
        : `it may take, half of the ${Math.floor(limit / 2 ** 20)} MiB of this machine or container`;
    return this.refuse(
      `needs more than the ${megabytes} MiB of memory ${may} (its process ${ended})`,
      oldest?.job as Job | undefined,
    );
  }
}

/** What Node says where something too large was asked for, and it could refuse. */
const OUT_OF_MEMORY = /allocation failed|out of memory|Invalid (?:string|array|typed array) length/i;

/** What a confined process answers for a job that ran into its time limit. */
export const JOB_TOO_LONG = "JOB_TOO_LONG";

function tooLong(milliseconds: number): string {
  return `takes longer than the ${milliseconds / 1000} s it may take`;
}

/** None outlives us, whichever way we end; one whose parent was killed hears that its channel is gone. */
const running = new Set<ChildProcess>();
process.on("exit", () => {
  for (const child of running) child.kill("SIGKILL");
});
