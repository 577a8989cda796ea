import { join } from "node:path";
import { PhysariumError } from "../../errors.js";
import { type Lock, takeLock } from "../../output/lock.js";
import { type Admission, servable } from "../admit/admission.js";
import { isElsewhere, type Organ, type OrganFarm, organsOf, tierOf } from "../config/organ-farm.js";
import { childEngine } from "../engine/child-engine.js";
import type { Engine } from "../engine/engine.js";
import type { MachineBudget } from "../plan/machine.js";
import { systemClock } from "../runtime/clock.js";
import type { FarmEvent } from "../runtime/events.js";
import { FarmRuntime } from "../runtime/farm-runtime.js";
import type { BodyFacts, Home } from "../runtime/home.js";
import { Score } from "../runtime/score.js";
import { Journal } from "../state/journal.js";
import type { StateFolder } from "../state/state-folder.js";
import { openVerifier } from "../verify/open-verifier.js";
import type { Verifier } from "../verify/verdict.js";
import { addressedFacts, factsOf } from "./body-facts.js";
import { type OrganTexts, readOrganTexts } from "./organ-prompt.js";
import { provenEngine } from "./proven-engine.js";
import { type ChildRecord, endOrphans, readTierState, startOf, type TierState, writeTierState } from "./tier-state.js";

export interface ServiceOptions {
  readonly farm: OrganFarm;
  readonly state: StateFolder;
  readonly budget: MachineBudget;
  readonly allowCommands: boolean;
  readonly engine?: Engine;
}

/** An organ, ready to be asked. */
export interface LiveOrgan {
  readonly organ: Organ;
  readonly texts: OrganTexts;
  readonly verifier: Verifier | undefined;
  readonly score: Score;
  pinned: boolean;
}

export type Happening = (FarmEvent | { readonly event: "answer"; readonly [more: string]: unknown }) & {
  readonly at: string;
};

/** The state is written at most so often while nothing has to be remembered at once. */
const WRITE_EVERY_MS = 1_000;
/** So often is looked for another admission. */
const LOOK_EVERY_MS = 2_000;

/** A farm at work: the runtime with its journal, its state on the disk, its organs. One a farm's folder. */
export class FarmService {
  readonly organs = new Map<string, LiveOrgan>();
  readonly admissions = new Map<string, Admission>();
  readonly startedAt = new Date().toISOString();
  private readonly listeners = new Set<(happening: Happening) => void>();
  private readonly children = new Map<number, ChildRecord>();
  private writing: Promise<void> = Promise.resolve();
  private readonly timers: NodeJS.Timeout[] = [];
  runtime!: FarmRuntime;
  private ownStart = "";
  private isDirty = false;

  private constructor(
    readonly options: ServiceOptions,
    readonly journal: Journal,
    private readonly lock: Lock,
  ) {}

  /** Throws `USAGE_LOCKED` where a server is at work already, and what reading the farm's files throws. */
  static async open(options: ServiceOptions): Promise<FarmService> {
    const { state } = options;
    const journal = await Journal.open(state.journal);
    const lock = await takeLock(state.serverLock).catch(async (error) => {
      await journal.close();
      throw error;
    });
    const service = new FarmService(options, journal, lock);
    try {
      await service.begin();
      return service;
    } catch (error) {
      await service.close();
      throw error;
    }
  }

  get farm(): OrganFarm {
    return this.options.farm;
  }

  private async begin(): Promise<void> {
    const { farm, state, budget, allowCommands } = this.options;
    const former = await readTierState(state.tierState);
    for (const { body, pid } of await endOrphans(former?.children ?? [])) {
      await this.journal.append("orphan_ended", { body, pid });
    }
    this.ownStart = await startOf(process.pid);
    const now = systemClock.now();
    for (const organ of farm.organs.values()) {
      const kept = former?.organs[organ.name];
      this.organs.set(organ.name, {
        organ,
        texts: readOrganTexts(organ),
        verifier: await openVerifier(organ, { allowCommands, folder: farm.folder }),
        score: new Score(now, kept?.score),
        pinned: kept?.pinned ?? organ.pinned,
      });
    }
    const facts: BodyFacts[] = [];
    for (const body of farm.bodies.values()) facts.push(await this.facts(body.name));
    this.runtime = new FarmRuntime(facts, {
      budget,
      residenceMs: farm.residenceMs,
      engine: provenEngine(this.options.engine ?? childEngine, (file) => this.digestOf(file)),
      onEvent: (event) => this.happened(event),
      onChild: (body, pid) => this.childStarted(body, pid),
      scoreOf: (body) => this.scoreOf(body),
    });
    for (const body of farm.bodies.keys()) this.applyPins(body);
    await this.journal.append("server_started", { pid: process.pid });
    await this.write();
    this.every(WRITE_EVERY_MS, () => (this.isDirty ? this.write() : Promise.resolve()));
    if (!isElsewhere(farm.engine)) this.every(LOOK_EVERY_MS, () => this.lookForAdmissions());
    // What is pinned is there before anybody asks.
    for (const home of this.runtime.homes.values()) {
      if (home.pinned && home.facts.placements.length > 0) void this.runtime.load(home.name).catch(() => {});
    }
  }

  /** Called with everything that happens from now on; the result ends that. */
  listen(listener: (happening: Happening) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  scoreOf(body: string): number {
    const now = systemClock.now();
    return organsOf(this.farm, body).reduce((sum, { name }) => sum + this.organs.get(name)!.score.value(now), 0);
  }

  /** Pin an organ, or all organs of a body. Resolves once it is on the disk. */
  async pin(name: string, pinned: boolean): Promise<void> {
    const organ = this.organs.get(name);
    if (organ === undefined && !this.farm.bodies.has(name))
      throw new PhysariumError("USAGE_ARGUMENT", `there is no organ and no body "${name}"`);
    const chosen = organ === undefined ? organsOf(this.farm, name).map((each) => this.organs.get(each.name)!) : [organ];
    for (const each of chosen) each.pinned = pinned;
    for (const body of new Set(chosen.map((each) => each.organ.body))) this.applyPins(body);
    await this.write();
    await this.journal.append(pinned ? "pin" : "unpin", { name });
  }

  /** Why a body cannot be asked, or `undefined`. */
  unavailable(body: string): PhysariumError | undefined {
    const home = this.runtime.homes.get(body);
    if (home === undefined) return new PhysariumError("FARM_UNKNOWN_MODEL", `there is no body "${body}"`);
    if (home.facts.generation === 0 && !isElsewhere(this.farm.engine)) {
      return new PhysariumError("FARM_NOT_ADMITTED", `${body} was not admitted: physarium farm admit ${body}`);
    }
    if (home.facts.placements.length === 0) {
      const words =
        tierOf(this.farm, body) === "SSD"
          ? "it is wanted on the SSD, where it lies and does not answer"
          : ["no form of it fits", ...home.facts.notes].join("; ");
      return new PhysariumError("FARM_NO_ROOM", `${body}: ${words}`);
    }
    return undefined;
  }

  /** Tell whoever looks on. */
  tell(event: FarmEvent | { event: "answer"; [more: string]: unknown }): void {
    const happening = { ...event, at: new Date().toISOString() } as Happening;
    for (const listener of this.listeners) listener(happening);
    this.isDirty = true;
  }

  async close(): Promise<void> {
    for (const timer of this.timers) clearInterval(timer);
    await this.runtime?.close();
    if (this.runtime !== undefined) {
      await this.write();
      await this.journal.append("server_ended", { pid: process.pid });
    }
    await this.writing.catch(() => {});
    await this.journal.close();
    await this.lock.release();
  }

  private async facts(name: string): Promise<BodyFacts> {
    const { farm, state, budget } = this.options;
    const body = farm.bodies.get(name)!;
    if (isElsewhere(farm.engine)) return addressedFacts(farm, body);
    const admission = await state.current(name);
    if (admission === undefined || servable(admission).length === 0) {
      this.admissions.delete(name);
      return { ...addressedFacts(farm, body), placements: [] };
    }
    this.admissions.set(name, admission);
    return factsOf(farm, body, admission, budget, state);
  }

  /** An admission or a revert that another process made. */
  private async lookForAdmissions(): Promise<void> {
    for (const [name, home] of this.runtime.homes) {
      const generation = await this.options.state.currentGeneration(name).catch(() => undefined);
      if (generation === undefined || generation === home.facts.generation) continue;
      this.runtime.replaceFacts(await this.facts(name));
      await this.journal.append("generation", { body: name, generation });
    }
  }

  private digestOf(file: string): string | undefined {
    for (const [body, { generation, forms }] of this.admissions) {
      const folder = this.options.state.generation(body, generation);
      const found = forms.find((form) => join(folder, form.file) === file);
      if (found !== undefined) return found.sha256;
    }
    return undefined;
  }

  private applyPins(body: string): void {
    const pinned = organsOf(this.farm, body).some(({ name }) => this.organs.get(name)!.pinned);
    this.runtime.pin(body, pinned);
  }

  private happened(event: FarmEvent): void {
    this.tell(event);
    // Nobody waits for these; answers and pins are awaited by whoever acknowledges them.
    if (event.event !== "queued") {
      const { event: name, ...more } = event;
      void this.journal.append(name, more).catch(() => {});
    }
  }

  private async childStarted(body: string, pid: number): Promise<void> {
    this.children.set(pid, { body, pid, started: await startOf(pid) });
    await this.write();
  }

  private every(milliseconds: number, work: () => Promise<void>): void {
    let isBusy = false;
    const timer = setInterval(() => {
      if (isBusy) return;
      isBusy = true;
      void work()
        .catch((error: Error) => process.stderr.write(`farm: ${error.message}\n`))
        .finally(() => {
          isBusy = false;
        });
    }, milliseconds);
    this.timers.push(timer);
  }

  /** One write after another, each of what is then. */
  private write(): Promise<void> {
    this.writing = this.writing
      .catch(() => {})
      .then(() => {
        this.isDirty = false;
        return writeTierState(this.options.state.tierState, this.snapshot());
      });
    return this.writing;
  }

  private snapshot(): TierState {
    const now = systemClock.now();
    const live = new Set([...this.runtime.homes.values()].map((home) => home.running?.pid));
    const loading = new Set(
      [...this.runtime.homes.values()].filter(({ status }) => status !== "stopped").map(({ name }) => name),
    );
    // A child that is being started is no home's yet, and one that is being ended may live still.
    for (const [pid, { body }] of this.children) if (!live.has(pid) && !loading.has(body)) this.children.delete(pid);
    return {
      version: 1,
      at: new Date().toISOString(),
      server: { pid: process.pid, started: this.ownStart },
      children: [...this.children.values()],
      bodies: Object.fromEntries([...this.runtime.homes].map(([name, home]) => [name, bodyState(home)])),
      organs: Object.fromEntries(
        [...this.organs].map(([name, { score, pinned }]) => [name, { score: score.record(now), pinned }]),
      ),
    };
  }
}

function bodyState(home: Home): TierState["bodies"][string] {
  const { placement, holds, status, facts, pinned } = home;
  return {
    status,
    form: placement?.form ?? null,
    // What is not loaded lies on the disk.
    tier: placement === undefined ? "SSD" : placement.tier,
    gpu_layers: placement?.gpuLayers ?? 0,
    generation: facts.generation,
    ram_bytes: Math.round(holds.RAM),
    vram_bytes: Math.round(holds.VRAM),
    pinned,
  };
}
