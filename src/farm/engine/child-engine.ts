import { type ChildProcess, fork } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";
import { fromPlainError, PhysariumError } from "../../errors.js";
import type { Answered, Ask, BodySpec, Engine, Loaded, RunningBody } from "./engine.js";
import { residentBytes } from "./process-memory.js";
import type { Call, FromChild, ToChild } from "./protocol.js";

const CHILD = new URL("./child.js", import.meta.url);
/** An answer that was called off and does not end holds its sequence: the child is ended then. */
const CANCEL_PATIENCE_MS = 15_000;
/** Lines of the child's stderr that are kept to say why it ended. */
const KEPT_LINES = 20;

/** One child process a body. */
export const childEngine: Engine = {
  async start(spec, onStart) {
    const body = new ChildBody(spec);
    await body.load(onStart);
    return body;
  },
};

interface Waiting {
  readonly onPiece: (text: string) => void;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: unknown) => void;
}

export class ChildBody implements RunningBody {
  private readonly child: ChildProcess;
  private readonly waiting = new Map<number, Waiting>();
  private readonly listeners: ((reason: string) => void)[] = [];
  private readonly lines: string[] = [];
  private readonly gone: Promise<void>;
  /** Processes that the child started. */
  private readonly others: number[] = [];
  private nextId = 1;
  private stopping = false;
  private ended: string | undefined;
  private onStart: ((pid: number) => Promise<void>) | undefined;
  private onLoaded: ((result: Loaded | Error) => void) | undefined;
  loaded!: Loaded;

  constructor(readonly spec: BodySpec) {
    this.child = fork(CHILD, [], {
      serialization: "advanced",
      // Its own output is nobody's result.
      stdio: ["ignore", "ignore", "pipe", "ipc"],
      // A group of its own: a Ctrl-C in the terminal is the farm's to handle.
      detached: true,
    });
    this.child.stderr!.setEncoding("utf8").on("data", (text: string) => this.keep(text));
    this.child.on("message", (message: FromChild) => this.hear(message));
    this.gone = new Promise((resolve) => {
      const end = (reason: string): void => {
        if (this.ended !== undefined) return;
        this.ended = reason;
        for (const pid of this.others) killQuietly(pid);
        this.fail(this.exitError());
        resolve();
        if (!this.stopping) for (const listener of this.listeners) listener(reason);
      };
      this.child.once("error", (error) => end(error.message));
      this.child.once("exit", (code, signal) => end(signal ?? `exit ${code}`));
    });
  }

  get pid(): number | undefined {
    return this.child.pid;
  }

  async load(onStart: (pid: number) => Promise<void>): Promise<void> {
    this.onStart = onStart;
    try {
      this.send({ kind: "prepare", spec: this.spec });
      if (this.child.pid !== undefined) await onStart(this.child.pid);
      const result = await new Promise<Loaded | Error>((resolve) => {
        this.onLoaded = resolve;
        if (this.ended !== undefined) resolve(this.exitError());
        else this.send({ kind: "load", spec: this.spec });
      });
      if (result instanceof Error) throw result;
      this.loaded = result;
    } catch (error) {
      await this.stop();
      throw error;
    }
  }

  ask(ask: Ask, onPiece: (text: string) => void, signal: AbortSignal): Promise<Answered> {
    const id = this.nextId++;
    const answer = this.wait<Answered>(id, onPiece);
    this.send({ kind: "ask", id, ask });
    const cancel = (): void => {
      this.send({ kind: "cancel", id });
      const timer = setTimeout(() => {
        if (this.waiting.has(id)) this.child.kill("SIGKILL");
      }, CANCEL_PATIENCE_MS);
      timer.unref();
    };
    if (signal.aborted) cancel();
    else signal.addEventListener("abort", cancel, { once: true });
    return answer.finally(() => signal.removeEventListener("abort", cancel));
  }

  call<T>(call: Call): Promise<T> {
    const id = this.nextId++;
    const result = this.wait<T>(id, () => {});
    this.send({ kind: "call", id, call });
    return result;
  }

  memory(): Promise<{ ramBytes: number; vramBytes: number }> {
    return this.call({ what: "memory" });
  }

  onExit(listener: (reason: string) => void): void {
    if (this.ended === undefined) this.listeners.push(listener);
    else listener(this.ended);
  }

  async stop(): Promise<void> {
    this.stopping = true;
    if (this.ended === undefined) {
      // It frees nothing that the system would not free at once, and native code may take its time.
      this.child.kill("SIGKILL");
      await this.gone;
    }
    for (const pid of this.others) killQuietly(pid);
    // Memory is given back before the next load begins: the processes are gone, not only told to go.
    for (const pid of [...this.others, ...(this.child.pid === undefined ? [] : [this.child.pid])]) await awaitGone(pid);
  }

  private exitError(): PhysariumError {
    const said = this.lines.length === 0 ? "" : `; it last said: ${this.lines.slice(-3).join(" | ")}`;
    const { body, form } = this.spec;
    return new PhysariumError("IO_ENGINE", `${body} (${form}): its process ended (${this.ended})${said}`, {
      body,
      form,
      reason: this.ended,
    });
  }

  private wait<T>(id: number, onPiece: (text: string) => void): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.ended !== undefined) reject(this.exitError());
      else this.waiting.set(id, { onPiece, resolve: resolve as (value: unknown) => void, reject });
    });
  }

  private hear(message: FromChild): void {
    switch (message.kind) {
      case "loaded":
        this.onLoaded?.(message.loaded);
        return;
      case "started":
        this.others.push(message.pid);
        // Recorded like the child itself: a farm that is killed with both leaves none behind.
        void this.onStart?.(message.pid).catch(() => {});
        return;
      case "piece":
        this.waiting.get(message.id)?.onPiece(message.text);
        return;
      case "answered":
        this.settle(message.id)?.resolve(message.answered);
        return;
      case "result":
        this.settle(message.id)?.resolve(message.result);
        return;
      case "failed":
        if (message.id === undefined) this.onLoaded?.(fromPlainError(message.error));
        else this.settle(message.id)?.reject(fromPlainError(message.error));
    }
  }

  private settle(id: number): Waiting | undefined {
    const waiting = this.waiting.get(id);
    this.waiting.delete(id);
    return waiting;
  }

  private fail(error: Error): void {
    this.onLoaded?.(error);
    for (const { reject } of this.waiting.values()) reject(error);
    this.waiting.clear();
  }

  private send(message: ToChild): void {
    // A child that has just ended is told by its exit.
    if (this.child.connected) this.child.send(message, () => {});
  }

  private keep(text: string): void {
    this.lines.push(...text.split("\n").filter((line) => line.trim() !== ""));
    this.lines.splice(0, this.lines.length - KEPT_LINES);
  }
}

function killQuietly(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // Gone already.
  }
}

async function awaitGone(pid: number): Promise<void> {
  for (let tries = 0; tries < 1000 && (await residentBytes(pid)) > 0; tries++) await sleep(10);
}
