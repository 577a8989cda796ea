import { PhysariumError } from "../../dist/errors.js";
import {
  type Answered,
  type Ask,
  type BodySpec,
  type Engine,
  greedyAsk,
  type Loaded,
  type RunningBody,
} from "../../dist/farm/engine/engine.js";
import type { Placement } from "../../dist/farm/plan/choose.js";
import type { Clock } from "../../dist/farm/runtime/clock.js";
import type { BodyFacts } from "../../dist/farm/runtime/home.js";
import type { Order } from "../../dist/farm/runtime/request.js";

/** Time that passes when the test says so. */
export class VirtualClock implements Clock {
  private time = 0;
  private readonly timers = new Map<number, { at: number; action: () => void }>();
  private nextId = 1;

  now(): number {
    return this.time;
  }

  after(milliseconds: number, action: () => void): () => void {
    const id = this.nextId++;
    this.timers.set(id, { at: this.time + milliseconds, action });
    return () => this.timers.delete(id);
  }

  /** Run everything that comes due, in order, with whatever follows from it. */
  async advance(milliseconds: number): Promise<void> {
    const until = this.time + milliseconds;
    for (;;) {
      await settled();
      let next: [number, { at: number; action: () => void }] | undefined;
      for (const entry of this.timers) if (next === undefined || entry[1].at < next[1].at) next = entry;
      if (next === undefined || next[1].at > until) break;
      this.timers.delete(next[0]);
      this.time = Math.max(this.time, next[1].at);
      next[1].action();
    }
    this.time = until;
    await settled();
  }
}

/** Everything that promises have to do is done. */
export function settled(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

interface Plan {
  /** What the process really takes. */
  bytes: number;
  loadMs: number;
  answerMs: number;
  failsToLoad?: boolean;
}

/** An engine of promises and virtual time that watches over what must never happen. */
export class WatchedEngine implements Engine {
  readonly live = new Set<FakeBody>();
  readonly broken: string[] = [];
  readonly plans = new Map<string, Plan>();
  starts = 0;
  /** The farm is being ended: everybody may be stopped then. */
  closing = false;

  constructor(readonly clock: VirtualClock) {}

  async start(spec: BodySpec, onStart: (pid: number) => Promise<void>): Promise<RunningBody> {
    this.starts++;
    for (const body of this.live) if (body.spec.body === spec.body) this.broken.push(`${spec.body} was started twice`);
    const body = new FakeBody(spec, this, this.plans.get(`${spec.body}/${spec.form}`)!);
    this.live.add(body);
    await onStart(body.pid);
    await body.load();
    return body;
  }

  crash(name: string): void {
    for (const body of this.live) if (body.spec.body === name && body.isLoaded) body.crash();
  }
}

let nextPid = 1;

class FakeBody implements RunningBody {
  readonly pid = nextPid++;
  readonly active = new Set<(error: Error) => void>();
  private readonly listeners: ((reason: string) => void)[] = [];
  isLoaded = false;
  loaded!: Loaded;

  constructor(
    readonly spec: BodySpec,
    private readonly engine: WatchedEngine,
    readonly plan: Plan,
  ) {}

  async load(): Promise<void> {
    await new Promise<void>((resolve) => this.engine.clock.after(this.plan.loadMs, resolve));
    if (this.plan.failsToLoad) {
      this.engine.live.delete(this);
      throw new PhysariumError("IO_ENGINE", "out of memory");
    }
    this.isLoaded = true;
    const sizes = { ramBytes: this.plan.bytes, vramBytes: 0 };
    this.loaded = {
      seconds: this.plan.loadMs / 1000,
      ...sizes,
      pids: [],
      engine: "fake",
      hasChatTemplate: false,
    };
  }

  ask(ask: Ask, onPiece: (text: string) => void, signal: AbortSignal): Promise<Answered> {
    if (!this.engine.live.has(this)) return Promise.reject(new PhysariumError("IO_ENGINE", "its process ended"));
    if (this.active.size >= this.spec.sequences) this.engine.broken.push(`${this.spec.body} got too much at once`);
    return new Promise((resolve, reject) => {
      const end = (): void => {
        callOff();
        this.active.delete(fail);
      };
      const fail = (error: Error): void => {
        end();
        reject(error);
      };
      this.active.add(fail);
      let callOff = this.engine.clock.after(this.plan.answerMs / 2, () => {
        onPiece("half");
        callOff = this.engine.clock.after(this.plan.answerMs / 2, () => {
          end();
          const text = "text" in ask.prompt ? ask.prompt.text : "";
          resolve({ text, promptTokens: 1, completionTokens: 1, finish: "stop", constrained: false });
        });
      });
      // An engine takes a moment to hear that it is to stop.
      const cancel = (): void =>
        void this.engine.clock.after(3, () => this.active.has(fail) && fail(new PhysariumError("STOPPED", "stopped")));
      signal.addEventListener("abort", cancel, { once: true });
    });
  }

  async memory() {
    return { ramBytes: this.engine.live.has(this) ? this.plan.bytes : 0, vramBytes: 0 };
  }

  async stop(): Promise<void> {
    if (this.active.size > 0 && !this.engine.closing) this.engine.broken.push(`${this.spec.body} was ended while busy`);
    await new Promise<void>((resolve) => {
      if (this.engine.closing) resolve();
      else this.engine.clock.after(2, resolve);
    });
    this.engine.live.delete(this);
    for (const fail of [...this.active]) fail(new PhysariumError("IO_ENGINE", "its process ended"));
  }

  onExit(listener: (reason: string) => void): void {
    this.listeners.push(listener);
  }

  crash(): void {
    this.engine.live.delete(this);
    for (const listener of this.listeners) listener("SIGKILL");
    for (const fail of [...this.active]) fail(new PhysariumError("IO_ENGINE", "its process ended"));
  }
}

export function placement(form: string, RAM: number, kl = 0): Placement {
  return { form, tier: "RAM", gpuLayers: 0, kl, need: { VRAM: 0, RAM }, reason: "test" };
}

export function facts(body: string, placements: readonly Placement[], more: Partial<BodyFacts> = {}): BodyFacts {
  return {
    body,
    sequences: 2,
    queueLimit: 8,
    ttlMs: undefined,
    generation: 1,
    placements,
    notes: [],
    specOf: ({ form, gpuLayers }) => ({
      body,
      file: `${body}-${form}.gguf`,
      form,
      context: 128,
      sequences: more.sequences ?? 2,
      threads: 1,
      gpuLayers,
      engine: { kind: "fake" },
    }),
    ...more,
  };
}

export function order(body: string, more: Partial<Order> = {}): Order {
  return {
    organ: body,
    body,
    ask: greedyAsk({ text: body }, 1),
    priority: 1,
    deadlineMs: undefined,
    noSwap: false,
    signal: new AbortController().signal,
    onPiece: () => {},
    ...more,
  };
}
