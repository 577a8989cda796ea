import type { BodySpec, RunningBody } from "../engine/engine.js";
import type { Placement } from "../plan/choose.js";
import type { Amount } from "./placement-search.js";
import type { Request } from "./request.js";
import { RequestQueue } from "./request-queue.js";

/** What the runtime is told of a body: its ways to be run, and how the engine is to run each. */
export interface BodyFacts {
  readonly body: string;
  readonly sequences: number;
  readonly queueLimit: number;
  /** Idle so long, it is given back; `undefined`: never. */
  readonly ttlMs: number | undefined;
  /** Which admission it is served from, to see that another took its place. */
  readonly generation: number;
  readonly placements: readonly Placement[];
  /** What stands in the way of better ones, or of any. */
  readonly notes: readonly string[];
  specOf(placement: Placement): BodySpec;
}

export type Status = "stopped" | "loading" | "ready" | "stopping";

/** A body's place in the farm: its queue, its process if it has one, what it was measured at. */
export class Home {
  readonly queue: RequestQueue<Request>;
  readonly inFlight = new Set<Request>();
  status: Status = "stopped";
  running: RunningBody | undefined;
  placement: Placement | undefined;
  loadedAt = 0;
  lastUsedAt = 0;
  /** Takes no new work, so that another body gets its place. */
  draining = false;
  /** Was told to go: the same, for whatever reason. */
  leaving = false;
  pinned = false;
  /** Waiting for a load that was asked for, whatever requests wait. */
  readonly loadWaiters: { resolve: () => void; reject: (error: unknown) => void }[] = [];
  /** Memory by placement, as last measured: it beats every estimate. */
  readonly measured = new Map<string, Amount>();
  /** Placements that failed to load since the last success. */
  readonly failed = new Set<string>();
  /** When the latest crashes and failed loads were, and until when nothing is tried. */
  readonly troubles: number[] = [];
  restUntil = 0;
  lastError: string | undefined;
  /** Moving mean of an answer's seconds, and seconds of the latest load: for Retry-After. */
  answerSeconds = 1;
  loadSeconds = 0;

  constructor(public facts: BodyFacts) {
    this.queue = new RequestQueue(facts.queueLimit);
  }

  get name(): string {
    return this.facts.body;
  }

  /** Somebody asked that it be loaded, and it is not yet. */
  get wanted(): boolean {
    return this.loadWaiters.length > 0;
  }

  /** What it takes or will take: measured where it was measured. */
  get holds(): Amount {
    return this.placement === undefined ? { VRAM: 0, RAM: 0 } : this.needOf(this.placement);
  }

  /** Placements with what is known of them now, those left out that failed. */
  get placements(): Placement[] {
    return this.facts.placements
      .filter((placement) => !this.failed.has(keyOf(placement)))
      .map((placement) => ({ ...placement, need: this.needOf(placement) }));
  }

  needOf(placement: Placement): Amount {
    return this.measured.get(keyOf(placement)) ?? placement.need;
  }

  /** Seconds until a new request may be served. */
  get secondsOfWork(): number {
    const rounds = Math.ceil((this.queue.length + this.inFlight.size) / this.facts.sequences);
    return rounds * this.answerSeconds + (this.status === "ready" ? 0 : this.loadSeconds);
  }
}

export function keyOf({ form, gpuLayers }: Placement): string {
  return `${form}/${gpuLayers}`;
}
