import { greedyAsk } from "../engine/engine.js";
import type { FarmService } from "../serve/farm-service.js";

/** A probe that takes longer says no. */
const PATIENCE_MS = 30_000;

export interface Readiness {
  readonly ready: boolean;
  readonly probes: readonly {
    readonly body: string;
    readonly ok: boolean;
    readonly seconds: number;
    readonly error?: string;
  }[];
}

/**
 * Ask for one token, for real: of every body that is loaded; where none is, of the first that can be loaded without
 * another giving way.
 */
export async function probe(service: FarmService): Promise<Readiness> {
  const homes = [...service.runtime.homes.values()].filter(({ name }) => service.unavailable(name) === undefined);
  const loaded = homes.filter(({ status }) => status === "ready");
  const chosen = loaded.length > 0 ? loaded : homes.slice(0, 1);
  const probes = await Promise.all(chosen.map(({ name }) => probeBody(service, name)));
  return { ready: probes.length > 0 && probes.every(({ ok }) => ok), probes };
}

async function probeBody(service: FarmService, body: string): Promise<Readiness["probes"][number]> {
  const started = performance.now();
  const seconds = (): number => (performance.now() - started) / 1000;
  try {
    const { completionTokens } = await service.runtime.submit({
      organ: "readyz",
      body,
      ask: greedyAsk({ text: "The" }, 1),
      // In front of everybody: it takes a moment, and whoever asks decides whether the farm gets work at all.
      priority: 101,
      deadlineMs: PATIENCE_MS,
      noSwap: true,
      signal: AbortSignal.timeout(PATIENCE_MS),
      onPiece: () => {},
    });
    return { body, ok: completionTokens <= 1, seconds: seconds() };
  } catch (error) {
    return { body, ok: false, seconds: seconds(), error: (error as Error).message };
  }
}
