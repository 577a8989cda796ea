import { join } from "node:path";
import { isPhysariumError } from "../../errors.js";
import { exists } from "../../output/place.js";
import { servable } from "../admit/admission.js";
import { isElsewhere, type OrganFarm } from "../config/organ-farm.js";
import { loadLlamaLibrary } from "../engine/load-library.js";
import { serverKey } from "../engine/server-key.js";
import { planFarm } from "../plan/farm-plan.js";
import type { MachineBudget } from "../plan/machine.js";
import { type StateFolder, tie } from "../state/state-folder.js";
import { serverOf } from "./farm-client.js";
import { requireDigest } from "./proven-engine.js";
import { readTierState, startOf } from "./tier-state.js";

export interface Finding {
  readonly what: string;
  readonly ok: boolean;
  readonly found: string;
}

/** Look at everything a farm stands on; changes nothing. */
export async function examineFarm(farm: OrganFarm, state: StateFolder, budget: MachineBudget): Promise<Finding[]> {
  const findings: Finding[] = [];
  const add = (what: string, ok: boolean, found: string): number => findings.push({ what, ok, found });
  await attemptTo(add, "engine", async () => {
    if (farm.engine.kind === "llama-server" && serverKey(farm.engine) !== undefined)
      return `llama-server ${farm.engine.address ?? farm.engine.path}, its key from ${farm.engine.apiKeyEnv}`;
    if (farm.engine.kind === "llama-server") return `llama-server ${farm.engine.address ?? farm.engine.path}`;
    await loadLlamaLibrary();
    return "node-llama-cpp is there";
  });
  for (const tier of ["VRAM", "RAM", "SSD"] as const)
    add(`budget ${tier}`, true, `${budget[tier]} bytes (${budget.words[tier]})`);
  const admissions = await state.admissions(farm);
  for (const body of isElsewhere(farm.engine) ? [] : farm.bodies.keys()) {
    const admission = admissions.get(body);
    if (admission === undefined) {
      add(`body ${body}`, false, `not admitted: physarium farm admit ${body}`);
      continue;
    }
    for (const { form, file, sha256, tied } of servable(admission)) {
      await attemptTo(add, `${body} ${form}`, async () => {
        await requireDigest(join(state.generation(body, admission.generation), file), sha256);
        if (tie(admission.ledger_sha256 ?? "none", form, sha256) !== tied)
          throw new Error("its record ties it to another ledger");
        return `generation ${admission.generation}, its digest is the admitted one`;
      });
    }
  }
  await attemptTo(add, "placement", async () => {
    if (isElsewhere(farm.engine)) return "nothing is placed: the server runs elsewhere";
    const plans = await planFarm(farm, budget, admissions);
    const nowhere = plans.filter(({ chosen, tier }) => chosen === undefined && tier !== "SSD").map(({ body }) => body);
    if (nowhere.length > 0) throw new Error(`no form fits: ${nowhere.join(", ")}`);
    return "every body has a form that fits";
  });
  const server = await serverOf(state);
  add("server", true, server === undefined ? "none is at work" : `process ${server.pid} at ${server.address}`);
  const kept = await readTierState(state.tierState);
  const orphans = [];
  if (server === undefined) {
    for (const child of kept?.children ?? []) if ((await startOf(child.pid)) === child.started) orphans.push(child.pid);
  }
  const words = `processes ${orphans.join(", ")} of a farm that ended; the next serve ends them`;
  add("orphans", orphans.length === 0, orphans.length === 0 ? "none" : words);
  if (await exists(state.tierState))
    add("tier_state.json", kept !== undefined, kept === undefined ? "cannot be read" : `of ${kept.at}`);
  return findings;
}

async function attemptTo(
  add: (what: string, ok: boolean, found: string) => void,
  what: string,
  work: () => Promise<string>,
) {
  try {
    add(what, true, await work());
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    add(what, false, isPhysariumError(error) ? `${error.message} [${error.code}]` : error.message);
  }
}
