import { servable } from "../admit/admission.js";
import { systemClock } from "../runtime/clock.js";
import type { FarmService } from "../serve/farm-service.js";

/** What is asked of the farm by people and pages, as plain JSON. */

export function organsView(service: FarmService) {
  const now = systemClock.now();
  return [...service.organs.values()].map(({ organ, score, pinned }) => ({
    name: organ.name,
    body: organ.body,
    tier: organ.tier,
    priority: organ.priority,
    pinned,
    verifier: organ.verifier ?? null,
    json_out: organ.jsonOut,
    max_tokens: organ.maxTokens,
    score: score.value(now),
    ...score.record(now),
  }));
}

export function bodiesView(service: FarmService) {
  return [...service.runtime.homes.values()].map((home) => {
    const admission = service.admissions.get(home.name);
    const admitted = admission?.forms.find(({ form }) => form === home.placement?.form);
    return {
      name: home.name,
      status: home.status,
      form: home.placement?.form ?? null,
      tier: home.placement?.tier ?? "SSD",
      gpu_layers: home.placement?.gpuLayers ?? 0,
      reason: home.placement?.reason ?? null,
      ram_bytes: home.holds.RAM,
      vram_bytes: home.holds.VRAM,
      disk_bytes:
        admission === undefined ? 0 : servable(admission).reduce((sum, { byte_length }) => sum + byte_length, 0),
      pid: home.running?.pid ?? null,
      pinned: home.pinned,
      waiting: home.queue.length,
      in_flight: home.inFlight.size,
      sequences: home.facts.sequences,
      score: service.scoreOf(home.name),
      load_seconds: home.loadSeconds,
      generation: home.facts.generation,
      kl: admitted?.loss?.kl_mean ?? null,
      ledger_sha256: admission?.ledger_sha256 ?? null,
      last_error: home.lastError ?? null,
      unavailable: service.unavailable(home.name)?.message ?? null,
    };
  });
}

export function farmView(service: FarmService) {
  const { VRAM, RAM } = service.runtime.budget;
  const { SSD } = service.options.budget;
  const bodies = bodiesView(service);
  const stored = bodies.reduce((sum, { disk_bytes }) => sum + disk_bytes, 0);
  const used = service.runtime.used;
  return {
    started_at: service.startedAt,
    budget: { VRAM, RAM, SSD },
    used: { VRAM: used.VRAM, RAM: used.RAM, SSD: stored },
    bodies,
    organs: organsView(service),
  };
}

export function modelsView(service: FarmService) {
  const created = Math.floor(Date.parse(service.startedAt) / 1000);
  const entry = (id: string, body: string, kind: "organ" | "body") => ({
    id,
    object: "model",
    created,
    owned_by: "physarium",
    physarium: { kind, body, ledger_sha256: service.admissions.get(body)?.ledger_sha256 ?? null },
  });
  return {
    object: "list",
    data: [
      ...[...service.organs.values()].map(({ organ }) => entry(organ.name, organ.body, "organ")),
      ...[...service.farm.bodies.keys()].map((name) => entry(name, name, "body")),
    ],
  };
}
