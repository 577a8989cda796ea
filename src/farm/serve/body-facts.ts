import { existsSync } from "node:fs";
import { join } from "node:path";
import { type Admission, servable } from "../admit/admission.js";
import { type Body, type OrganFarm, organsOf, tierOf } from "../config/organ-farm.js";
import type { BodySpec } from "../engine/engine.js";
import { planBody } from "../plan/farm-plan.js";
import type { MachineBudget } from "../plan/machine.js";
import type { BodyFacts } from "../runtime/home.js";
import type { StateFolder } from "../state/state-folder.js";

/** What the runtime needs to know of an admitted body: its servable forms in the order of the plan. */
export async function factsOf(
  farm: OrganFarm,
  body: Body,
  admission: Admission,
  budget: MachineBudget,
  state: StateFolder,
): Promise<BodyFacts> {
  const folder = state.generation(body.name, admission.generation);
  const forms = servable(admission).filter(
    ({ form, file }) => body.forms.includes(form) && existsSync(join(folder, file)),
  );
  const plan = await planBody(
    { ...body, forms: forms.map(({ form }) => form) },
    tierOf(farm, body.name),
    budget,
    admission,
  );
  const ttls = organsOf(farm, body.name).map(({ ttlMs }) => ttlMs);
  const { context, sequences } = plan.run;
  return {
    body: body.name,
    sequences,
    queueLimit: body.queue,
    // The most patient organ decides.
    ttlMs: ttls.length === 0 || ttls.includes(undefined) ? undefined : Math.max(...ttls.map((ttl) => ttl!)),
    generation: admission.generation,
    placements: plan.choice.placements,
    notes: plan.choice.notes,
    specOf({ form, gpuLayers }): BodySpec {
      const { file, load } = forms.find((each) => each.form === form)!;
      const threads = body.threads === "auto" ? (load?.threads ?? 1) : body.threads;
      return {
        body: body.name,
        file: join(folder, file),
        form,
        context,
        sequences,
        threads,
        gpuLayers,
        engine: farm.engine,
      };
    },
  };
}

/** A server that runs elsewhere: nothing is placed, and what it takes is not the farm's. */
export function addressedFacts(farm: OrganFarm, body: Body): BodyFacts {
  const context = body.context ?? 4096;
  const { sequences, name } = body;
  const reason = "its server runs elsewhere";
  return {
    body: name,
    sequences,
    queueLimit: body.queue,
    ttlMs: undefined,
    generation: 0,
    placements: [{ form: "external", tier: "RAM", gpuLayers: 0, kl: undefined, need: { VRAM: 0, RAM: 0 }, reason }],
    notes: [],
    specOf: ({ form, gpuLayers }) => ({
      body: name,
      file: "",
      form,
      context,
      sequences,
      threads: 1,
      gpuLayers,
      engine: farm.engine,
    }),
  };
}
