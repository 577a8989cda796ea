import type { RunningBody } from "../engine/engine.js";
import type { Placement } from "../plan/choose.js";
import type { Clock } from "./clock.js";
import type { RuntimeOptions } from "./farm-runtime.js";
import { type Home, keyOf } from "./home.js";
import { type Amount, fits, type Resident } from "./placement-search.js";
import { refuse } from "./request.js";

/** Three troubles within a minute: the body is left alone for a while. */
const MOST_TROUBLES = 3;
const TROUBLE_WINDOW_MS = 60_000;
const REST_MS = 15_000;

/** Starts and ends bodies, one at a time. */
export class Loader {
  private work: Promise<void> | undefined;
  private closed = false;
  private readonly ending = new Map<RunningBody, Promise<void>>();

  constructor(
    private readonly homes: ReadonlyMap<string, Home>,
    private readonly options: RuntimeOptions,
    private readonly clock: Clock,
    private readonly pump: () => void,
  ) {}

  get isBusy(): boolean {
    return this.work !== undefined;
  }

  /** Memory that bodies hold, as measured. */
  get used(): Amount {
    const holds = [...this.homes.values()].map((home) => home.holds);
    return {
      VRAM: holds.reduce((sum, { VRAM }) => sum + VRAM, 0),
      RAM: holds.reduce((sum, { RAM }) => sum + RAM, 0),
    };
  }

  /** Who holds memory beside `home`. */
  residents(home: Home, now: number): Resident[] {
    const others = [...this.homes.values()].filter((other) => other !== home && other.placement !== undefined);
    return others.map((other) => ({
      body: other.name,
      holds: other.holds,
      score: this.scoreOf(other),
      isFixed: other.pinned || other.status !== "ready",
      isBusy: other.inFlight.size > 0,
      residesFor: Math.max(0, other.loadedAt + this.options.residenceMs - now),
    }));
  }

  /** End the victims, then load. Nothing else is placed meanwhile. */
  place(home: Home, placement: Placement, victims: readonly string[]): void {
    home.status = "loading";
    home.placement = placement;
    // At once: none of them may begin an answer while another is being ended.
    for (const name of victims) this.homes.get(name)!.leaving = true;
    this.work = (async () => {
      // Its memory counts as taken from now on, theirs until they are gone.
      for (const name of victims) await this.evict(this.homes.get(name)!, `makes room for ${home.name}`);
      await this.load(home, placement);
    })()
      .catch((error: Error) => this.loadFailed(home, placement, error))
      .finally(() => {
        this.work = undefined;
        this.pump();
      });
  }

  /** End a body; resolves once its memory is back, whoever began it. */
  evict(home: Home, reason: string): Promise<void> {
    const { running } = home;
    if (running === undefined) return Promise.resolve();
    let ending = this.ending.get(running);
    if (ending === undefined) {
      home.status = "stopping";
      ending = running.stop().then(() => {
        this.ending.delete(running);
        if (home.running === running) this.forget(home);
        this.options.onEvent?.({ event: "evicted", body: home.name, reason });
      });
      this.ending.set(running, ending);
    }
    return ending;
  }

  /** Nobody waits for this body any longer. */
  giveUp(home: Home, error: Error): void {
    home.failed.clear();
    for (const request of home.queue.takeAll()) request.settle(error);
    for (const { reject } of home.loadWaiters.splice(0)) reject(error);
  }

  /** Ask every loaded body for its memory: what it grew to counts from then on. */
  async measureAll(): Promise<void> {
    for (const home of this.homes.values()) {
      const { running, placement } = home;
      if (home.status !== "ready" || running === undefined || placement === undefined) continue;
      const memory = await running.memory().catch(() => undefined);
      // It may have been ended meanwhile.
      if (memory === undefined || memory.ramBytes === 0 || home.running !== running) continue;
      this.measured(home, placement, memory);
    }
    await this.giveBackExcess();
  }

  async close(): Promise<void> {
    this.closed = true;
    await this.work?.catch(() => {});
    for (const home of this.homes.values()) await this.evict(home, "the farm is ended");
  }

  private async load(home: Home, placement: Placement): Promise<void> {
    const { onEvent, engine, onChild } = this.options;
    const { form, tier, gpuLayers, reason } = placement;
    const { facts } = home;
    onEvent?.({ event: "loading", body: home.name, form, tier, reason, gpu_layers: gpuLayers });
    let running: RunningBody;
    try {
      if (this.closed) throw refuse("FARM_UNAVAILABLE", "the farm is being ended");
      running = await engine.start(facts.specOf(placement), async (pid) => onChild?.(home.name, pid));
    } catch (error) {
      this.loadFailed(home, placement, error as Error);
      return;
    }
    // Another admission came meanwhile: what is there now is not what is served, and the next placement is of that one.
    if (home.facts !== facts) {
      await running.stop();
      this.forget(home);
      onEvent?.({ event: "evicted", body: home.name, reason: "another form was admitted" });
      return;
    }
    const { ramBytes, vramBytes, seconds } = running.loaded;
    const expected = placement.need;
    this.measured(home, placement, { ramBytes, vramBytes });
    home.running = running;
    home.loadSeconds = seconds;
    if (!this.fitsNow() && !(await this.makeFit(home, placement, expected.RAM + expected.VRAM))) return;
    home.status = "ready";
    home.draining = false;
    home.loadedAt = this.clock.now();
    home.lastUsedAt = home.loadedAt;
    home.failed.clear();
    home.lastError = undefined;
    running.onExit((why) => this.crashed(home, running, why));
    const pid = running.pid ?? null;
    onEvent?.({
      event: "loaded",
      body: home.name,
      form,
      tier,
      seconds,
      ram_bytes: ramBytes,
      vram_bytes: vramBytes,
      pid,
    });
    for (const { resolve } of home.loadWaiters.splice(0)) resolve();
  }

  /**
   * What a body takes: what it has now, and at least what admission saw at its highest (or the estimate says), since a
   * fresh one has not touched all of its pages.
   */
  private measured(home: Home, placement: Placement, { ramBytes, vramBytes }: { ramBytes: number; vramBytes: number }) {
    const { RAM, VRAM } =
      home.facts.placements.find((each) => keyOf(each) === keyOf(placement))?.need ?? placement.need;
    home.measured.set(keyOf(placement), { RAM: Math.max(RAM, ramBytes), VRAM: Math.max(VRAM, vramBytes) });
  }

  private fitsNow(): boolean {
    return fits(this.used, this.options.budget);
  }

  /** A body turned out larger than it was thought to be: who is idle gives way, or the body itself does. */
  private async makeFit(home: Home, placement: Placement, expectedBytes: number): Promise<boolean> {
    const measured = home.needOf(placement);
    const { form } = placement;
    const measuredBytes = measured.RAM + measured.VRAM;
    const sizes = { expected_bytes: expectedBytes, measured_bytes: measuredBytes };
    this.options.onEvent?.({ event: "wrong_estimate", body: home.name, form, ...sizes });
    for (;;) {
      const [idle] = this.residents(home, this.clock.now())
        .filter(({ isFixed, isBusy, residesFor }) => !isFixed && !isBusy && residesFor <= 0)
        .sort((a, b) => a.score - b.score);
      if (idle === undefined) break;
      await this.evict(this.homes.get(idle.body)!, `makes room for ${home.name}, which is larger than was thought`);
      if (this.fitsNow()) return true;
    }
    await home.running!.stop();
    this.forget(home);
    this.options.onEvent?.({ event: "evicted", body: home.name, reason: "it is larger than was thought" });
    // The measured figure stays: the next search knows.
    return false;
  }

  /** Memory that grew over the budget: of those that may go, the one of least score does. */
  private async giveBackExcess(): Promise<void> {
    if (this.isBusy) return;
    while (!this.fitsNow()) {
      const [least] = [...this.homes.values()]
        .filter((home) => home.status === "ready" && home.inFlight.size === 0 && !home.pinned)
        .sort((a, b) => this.scoreOf(a) - this.scoreOf(b) || a.lastUsedAt - b.lastUsedAt);
      if (least === undefined) return;
      await this.evict(least, "memory has grown over the budget");
    }
  }

  private scoreOf(home: Home): number {
    return this.options.scoreOf?.(home.name) ?? 0;
  }

  private loadFailed(home: Home, placement: Placement, error: Error): void {
    this.forget(home);
    home.lastError = error.message;
    home.failed.add(keyOf(placement));
    this.options.onEvent?.({ event: "load_failed", body: home.name, form: placement.form, message: error.message });
    // The next placement is tried at once; where there is none left, those that wait are told.
    if (home.placements.length > 0 && !this.closed) return;
    this.trouble(home);
    this.giveUp(home, refuse("FARM_UNAVAILABLE", `${home.name} cannot be loaded: ${error.message}`));
  }

  private crashed(home: Home, running: RunningBody, reason: string): void {
    if (home.running !== running) return;
    this.options.onEvent?.({ event: "crashed", body: home.name, reason });
    // Its answers under way fail by themselves, and those that said nothing yet come back to the queue.
    this.forget(home);
    home.lastError = `its process ended (${reason})`;
    if (this.trouble(home))
      this.giveUp(home, refuse("FARM_UNAVAILABLE", `${home.name} ends again and again: ${reason}`));
    this.pump();
  }

  /** True where it is one too many. */
  private trouble(home: Home): boolean {
    const now = this.clock.now();
    home.troubles.push(now);
    home.troubles.splice(
      0,
      home.troubles.findIndex((at) => at > now - TROUBLE_WINDOW_MS),
    );
    if (home.troubles.length < MOST_TROUBLES) return false;
    home.restUntil = now + REST_MS;
    return true;
  }

  private forget(home: Home): void {
    home.status = "stopped";
    home.running = undefined;
    home.placement = undefined;
    home.draining = false;
    home.leaving = false;
  }
}
