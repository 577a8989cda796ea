import { isPhysariumError } from "../../errors.js";
import type { Engine } from "../engine/engine.js";
import { type Clock, systemClock } from "./clock.js";
import type { FarmListener } from "./events.js";
import { type BodyFacts, Home } from "./home.js";
import { Loader } from "./loader.js";
import { type Amount, searchPlacement } from "./placement-search.js";
import { type Order, type Request, refuse, type Served } from "./request.js";
import { rankOf } from "./request-queue.js";

export interface RuntimeOptions {
  readonly budget: Amount;
  readonly residenceMs: number;
  readonly engine: Engine;
  readonly clock?: Clock;
  readonly onEvent?: FarmListener;
  /** Told of every child before its model is loaded; the load waits for it. */
  readonly onChild?: (body: string, pid: number) => Promise<void>;
  /** Worth of a body: of those that may go, the least goes first. */
  readonly scoreOf?: (body: string) => number;
}

/** So often is looked for what has been idle for too long, and memory measured. */
const TICK_MS = 1_000;

/**
 * Bodies, their queues and their places. One placement is under way at a time: what gives way is gone, and its memory
 * with it, before the next load begins; whoever is loaded is served meanwhile.
 */
export class FarmRuntime {
  readonly homes = new Map<string, Home>();
  readonly clock: Clock;
  private readonly loader: Loader;
  private wake: (() => void) | undefined;
  private stopTick: (() => void) | undefined;
  private closed = false;

  constructor(
    bodies: Iterable<BodyFacts>,
    private readonly options: RuntimeOptions,
  ) {
    this.clock = options.clock ?? systemClock;
    for (const facts of bodies) this.homes.set(facts.body, new Home(facts));
    this.loader = new Loader(this.homes, options, this.clock, () => this.pump());
    this.tick();
  }

  get budget(): Amount {
    return this.options.budget;
  }

  /** Memory that bodies hold, as measured. */
  get used(): Amount {
    return this.loader.used;
  }

  /**
   * Serve an order. Throws `FARM_QUEUE_FULL` (with `retryAfter`, seconds), `FARM_WOULD_SWAP`, `FARM_NO_ROOM`,
   * `FARM_DEADLINE`, `FARM_UNAVAILABLE`, `STOPPED` where the caller's signal aborted, and what the engine throws.
   */
  submit(order: Order): Promise<Served> {
    const home = this.home(order.body);
    const now = this.clock.now();
    if (order.signal.aborted) return Promise.reject(refuse("STOPPED", "the client left"));
    if (this.closed) return Promise.reject(refuse("FARM_UNAVAILABLE", "the farm is being ended"));
    if (now < home.restUntil) return Promise.reject(this.resting(home, now));
    if (home.queue.isFull) {
      const retryAfter = Math.max(1, Math.ceil(home.secondsOfWork));
      const words = `${home.name}: ${home.queue.length} requests wait already; try again in about ${retryAfter} s`;
      return Promise.reject(refuse("FARM_QUEUE_FULL", words, { retryAfter }));
    }
    if (order.noSwap && home.status === "stopped" && this.wouldSwap(home)) {
      const words = `${home.name} is not loaded, and another body would have to give way`;
      return Promise.reject(refuse("FARM_WOULD_SWAP", words));
    }
    return new Promise<Served>((resolve, reject) => {
      const controller = new AbortController();
      let callOff = (): void => {};
      const leave = (): void => this.drop(home, request, refuse("STOPPED", "the client left"));
      const request: Request = {
        order,
        priority: order.priority,
        cameAt: now,
        reused: home.status === "ready" && !home.leaving,
        started: false,
        losses: 0,
        controller,
        settle: (result) => {
          callOff();
          order.signal.removeEventListener("abort", leave);
          if (result instanceof Error) reject(result);
          else resolve(result);
        },
      };
      order.signal.addEventListener("abort", leave, { once: true });
      if (order.deadlineMs !== undefined) {
        const { deadlineMs } = order;
        const late = refuse("FARM_DEADLINE", `${order.organ}: no answer within ${deadlineMs} ms`, { deadlineMs });
        callOff = this.clock.after(deadlineMs, () => this.drop(home, request, late));
      }
      home.queue.push(request);
      this.options.onEvent?.({ event: "queued", body: home.name, organ: order.organ, waiting: home.queue.length });
      this.pump();
    });
  }

  /**
   * Load a body now, and wait until it is there. Throws what `submit` throws, and `FARM_BUSY` where it was unloaded
   * before its turn came.
   */
  load(body: string): Promise<void> {
    const home = this.home(body);
    if (this.closed) return Promise.reject(refuse("FARM_UNAVAILABLE", "the farm is being ended"));
    if (home.status === "ready") return Promise.resolve();
    home.restUntil = 0;
    home.failed.clear();
    const done = new Promise<void>((resolve, reject) => home.loadWaiters.push({ resolve, reject }));
    this.pump();
    return done;
  }

  /** Give a body's memory back once its answers under way are written. Throws `FARM_BUSY` where a load is under way. */
  async unload(body: string, reason = "asked for"): Promise<void> {
    const home = this.home(body);
    if (home.status === "stopped") {
      for (const { reject } of home.loadWaiters.splice(0))
        reject(refuse("FARM_BUSY", `${body} was unloaded meanwhile`));
      return;
    }
    if (home.status !== "ready") throw refuse("FARM_BUSY", `${body} is ${home.status}; try again`);
    home.leaving = true;
    const { running } = home;
    while (home.inFlight.size > 0 && home.running === running) {
      await new Promise<void>((next) => this.clock.after(20, next));
    }
    if (home.running === running) await this.loader.evict(home, reason);
    this.pump();
  }

  pin(body: string, pinned: boolean): void {
    const home = this.home(body);
    home.pinned = pinned;
    this.options.onEvent?.({ event: "pinned", body, pinned });
    this.pump();
  }

  /** Another admission took the place of what is served: the body is loaded anew when it is next idle. */
  replaceFacts(facts: BodyFacts): void {
    const home = this.home(facts.body);
    home.facts = facts;
    home.failed.clear();
    home.measured.clear();
    home.restUntil = 0;
    if (home.status === "ready") void this.unload(facts.body, "another form was admitted").catch(() => {});
    else this.pump();
  }

  /** End every body. What waits or is being answered fails with `FARM_UNAVAILABLE`. */
  async close(): Promise<void> {
    this.closed = true;
    this.stopTick?.();
    this.wake?.();
    const end = refuse("FARM_UNAVAILABLE", "the farm is being ended");
    for (const home of this.homes.values()) this.loader.giveUp(home, end);
    await this.loader.close();
  }

  private home(body: string): Home {
    const home = this.homes.get(body);
    if (home === undefined) throw refuse("USAGE_ARGUMENT", `there is no body "${body}"`);
    return home;
  }

  /** Do whatever can be done now. Called after everything that changes something. */
  private pump(): void {
    if (this.closed) return;
    const drained = new Map(this.makeRoom());
    for (const home of this.homes.values()) {
      const waiter = drained.get(home.name);
      if (waiter !== undefined && !home.draining) {
        this.options.onEvent?.({ event: "draining", body: home.name, for: waiter });
      }
      // Who was to give way for somebody that has left meanwhile works on.
      home.draining = waiter !== undefined;
      this.dispatch(home);
    }
  }

  /** Begin the next placement, or say who has to end its work for it: pairs of that body and the one that waits. */
  private makeRoom(): [string, string][] {
    if (this.loader.isBusy) return [];
    this.wake?.();
    this.wake = undefined;
    const homes = [...this.homes.values()];
    // What is being ended gives its memory back in a moment, and pumps then.
    if (homes.some(({ status }) => status === "stopping")) return [];
    const now = this.clock.now();
    const waiting = homes
      .filter((home) => home.status === "stopped" && now >= home.restUntil && (home.queue.length > 0 || home.wanted))
      .sort((a, b) => urgency(b, now) - urgency(a, now));
    for (const home of waiting) {
      const search = searchPlacement(home.placements, this.budget, this.loader.residents(home, now));
      if (search.kind === "now") {
        this.loader.place(home, search.placement, search.victims);
        return [];
      }
      if (search.kind === "never") {
        this.loader.giveUp(home, this.noRoom(home, search.fixed));
        continue;
      }
      if (search.milliseconds > 0) this.wake = this.clock.after(search.milliseconds + 1, () => this.pump());
      // Whoever waits longest is not overtaken by those that would take what is being made free.
      return search.drain.map((name) => [name, home.name]);
    }
    return [];
  }

  private dispatch(home: Home): void {
    const isOpen = (): boolean => home.status === "ready" && !home.draining && !home.leaving;
    while (isOpen() && home.inFlight.size < home.facts.sequences) {
      const request = home.queue.take(this.clock.now());
      if (request === undefined) return;
      home.inFlight.add(request);
      void this.serve(home, request);
    }
  }

  private async serve(home: Home, request: Request): Promise<void> {
    const { running, placement, facts } = home;
    const { order, controller } = request;
    const begun = this.clock.now();
    try {
      order.onStart?.(placement!, facts.generation);
      const onPiece = (text: string): void => {
        request.started = true;
        order.onPiece(text);
      };
      const answered = await running!.ask(order.ask, onPiece, controller.signal);
      const ended = this.clock.now();
      const seconds = (ended - begun) / 1000;
      home.answerSeconds += 0.2 * (seconds - home.answerSeconds);
      request.settle({
        ...answered,
        placement: placement!,
        generation: facts.generation,
        waitedSeconds: (begun - request.cameAt) / 1000,
        seconds,
        reused: request.reused,
        ramBytes: home.holds.RAM,
      });
    } catch (error) {
      // A body that was lost before it said a word gets the request once more, in another process.
      const isLost = isPhysariumError(error, "IO_ENGINE") && !controller.signal.aborted;
      if (isLost && !request.started && request.losses++ === 0 && !this.closed) home.queue.putBack(request);
      else if (isLost) request.settle(refuse("FARM_UNAVAILABLE", (error as Error).message));
      else request.settle(error as Error);
    } finally {
      home.inFlight.delete(request);
      home.lastUsedAt = this.clock.now();
      this.pump();
    }
  }

  /** Take a request away, wherever it is. The engine is told to end it; it is answered at once. */
  private drop(home: Home, request: Request, reason: Error): void {
    home.queue.remove(request);
    request.settle(reason);
    request.controller.abort();
  }

  private wouldSwap(home: Home): boolean {
    const search = searchPlacement(home.placements, this.budget, this.loader.residents(home, this.clock.now()));
    return search.kind !== "now" || search.victims.length > 0 || this.loader.isBusy;
  }

  private noRoom(home: Home, fixed: readonly string[]): Error {
    const why = home.lastError === undefined ? "" : ` (${home.lastError})`;
    const who = fixed.length === 0 ? "" : `; ${fixed.join(", ")} cannot give way`;
    return refuse("FARM_NO_ROOM", `${home.name}: no form of it fits the memory of the farm${who}${why}`);
  }

  private resting(home: Home, now: number): Error {
    const retryAfter = Math.max(1, Math.ceil((home.restUntil - now) / 1000));
    const words = `${home.name} failed too often and is left alone for ${retryAfter} s: ${home.lastError ?? "unknown"}`;
    return refuse("FARM_UNAVAILABLE", words, { retryAfter });
  }

  private tick(): void {
    this.stopTick = this.clock.after(TICK_MS, () => {
      const now = this.clock.now();
      for (const home of this.homes.values()) {
        const { ttlMs } = home.facts;
        const isIdle = home.status === "ready" && home.inFlight.size === 0 && home.queue.length === 0;
        if (isIdle && ttlMs !== undefined && !home.pinned && now - home.lastUsedAt >= ttlMs) {
          void this.unload(home.name, `idle for ${Math.round(ttlMs / 1000)} s`).catch(() => {});
        }
      }
      void this.loader.measureAll().finally(() => {
        if (this.closed) return;
        this.pump();
        this.tick();
      });
    });
  }
}

/** Who is placed first: the rank of its first in line; a load that was asked for counts as a request of this moment. */
function urgency(home: Home, now: number): number {
  const first = home.queue.peek(now);
  return Math.max(first === undefined ? 0 : rankOf(first, now), home.wanted ? 1 : 0);
}
