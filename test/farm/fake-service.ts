import { createHash } from "node:crypto";
import { cpSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { readFarm } from "../../dist/farm/config/read-config.js";
import { childEngine } from "../../dist/farm/engine/child-engine.js";
import type { Engine, FakeEngine } from "../../dist/farm/engine/engine.js";
import { listen } from "../../dist/farm/http/serve-http.js";
import { budgetOf } from "../../dist/farm/plan/machine.js";
import { FarmService } from "../../dist/farm/serve/farm-service.js";
import { StateFolder, tie } from "../../dist/farm/state/state-folder.js";
import { LOAM } from "../shared.js";

export const LEDGER = "ab".repeat(32);

/** A farm's folder whose bodies count as admitted: the file of a form is a few bytes that the fake engine never reads. */
export function admittedFolder(
  folder: string,
  farm: { bodies: Record<string, object>; [more: string]: unknown },
): string {
  cpSync(LOAM, join(folder, "loam"), { recursive: true });
  for (const body of Object.keys(farm.bodies)) {
    const generation = join(folder, "farm-state/bodies", body, "1");
    mkdirSync(generation, { recursive: true });
    const content = `form of ${body}`;
    writeFileSync(join(generation, "q8_0.gguf"), content);
    const sha256 = createHash("sha256").update(content).digest("hex");
    const form = {
      form: "q8_0",
      file: "q8_0.gguf",
      byte_length: content.length,
      sha256,
      tied: tie(LEDGER, "q8_0", sha256),
      loss: null,
      load: { peak_bytes: 60 << 20, vram_bytes: 0, load_seconds: 0.1, tokens_per_second: [], threads: 1 },
      checks: [],
      rejected: null,
    };
    const admission = {
      version: 1,
      body,
      generation: 1,
      at: new Date().toISOString(),
      physarium_version: "0",
      engine: "fake",
      source: "loam",
      ledger_sha256: LEDGER,
      context: 128,
      sequences: 2,
      accepted: true,
      checks: [],
      forms: [form],
      warnings: [],
    };
    writeFileSync(join(generation, "admission.json"), JSON.stringify(admission));
    writeFileSync(join(folder, "farm-state/bodies", body, "current.json"), '{"generation":1}');
  }
  writeFileSync(join(folder, "organ_farm.json"), JSON.stringify({ version: 1, budget: { RAM: "200MB" }, ...farm }));
  return folder;
}

/** Real child processes around the fake model. */
export function fakeEngine(settings: Omit<FakeEngine, "kind"> = {}): Engine {
  return {
    start: (spec, onStart) => childEngine.start({ ...spec, engine: { kind: "fake", ...settings } }, onStart),
  };
}

export async function startFarm(
  folder: string,
  engine: Engine,
  options: { apiKey?: string; allowCommands?: boolean; host?: string } = {},
) {
  const farm = await readFarm(join(folder, "organ_farm.json"));
  const state = new StateFolder(farm);
  const budget = await budgetOf(farm, {}, folder);
  const service = await FarmService.open({
    farm,
    state,
    budget,
    allowCommands: options.allowCommands ?? false,
    engine,
  });
  const server = await listen(service, {
    host: options.host ?? "127.0.0.1",
    port: 0,
    apiKey: options.apiKey,
    corsOrigin: undefined,
  });
  return {
    service,
    address: server.address,
    async close() {
      await Promise.all([server.close(), service.close()]);
    },
  };
}
