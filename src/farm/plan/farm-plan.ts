import { openDonor } from "../../checkpoint/donor.js";
import { openSource } from "../../sources.js";
import type { Admission } from "../admit/admission.js";
import { type Body, type OrganFarm, type Tier, tierOf } from "../config/organ-farm.js";
import { type Choice, choose, type FormFacts, type Placement } from "./choose.js";
import { type Footprint, footprintOf, type RunShape } from "./footprint.js";
import { type FormLayout, layoutOfForm } from "./forms.js";
import type { MachineBudget } from "./machine.js";

export const DEFAULT_CONTEXT = 4096;

/** A form in the plan: its bytes, and where it fits. */
export interface PlannedForm extends FormFacts {
  readonly layout: FormLayout;
  /** Perplexity over the donor's, where admission measured it. */
  readonly perplexityRatio: number | undefined;
  /** Peak memory that admission measured, in RAM at full context. */
  readonly measuredBytes: number | undefined;
}

export interface BodyPlan {
  readonly body: string;
  readonly source: string;
  readonly tier: Tier;
  /** What the file says of layers on the GPU. */
  readonly gpuLayers: number | "auto";
  readonly run: RunShape;
  readonly forms: readonly PlannedForm[];
  readonly choice: Choice;
  /** The first placement, or `undefined` where the body can only lie on the disk. */
  readonly chosen: Placement | undefined;
  readonly warnings: readonly string[];
}

/** How every body of a farm would be run. Reads headers alone; loads nothing, writes nothing. */
export async function planFarm(
  farm: OrganFarm,
  budget: MachineBudget,
  admissions: ReadonlyMap<string, Admission>,
): Promise<BodyPlan[]> {
  const plans: BodyPlan[] = [];
  for (const body of farm.bodies.values()) {
    plans.push(await planBody(body, tierOf(farm, body.name), budget, admissions.get(body.name)));
  }
  return plans;
}

export async function planBody(
  body: Body,
  tier: Tier,
  budget: MachineBudget,
  admission: Admission | undefined,
): Promise<BodyPlan> {
  const source = await openSource(body.source);
  try {
    const donor = await openDonor(source);
    const layouts: FormLayout[] = [];
    for (const form of body.forms) layouts.push(await layoutOfForm(donor, form));
    const run = runShapeOf(body, layouts[0].shape.maxContext);
    const forms = layouts.map((layout) => plannedForm(layout, run, admission));
    const choice = choose(forms, tier, budget, body.gpuLayers);
    const stored = choice.placements[0];
    const warnings = [...new Set(layouts.flatMap((layout) => layout.warnings))];
    const { name, gpuLayers } = body;
    return { body: name, source: body.source, tier, gpuLayers, run, forms, choice, chosen: stored, warnings };
  } finally {
    await source.close();
  }
}

export function runShapeOf(body: Body, maxContext: number): RunShape {
  return { context: body.context ?? Math.min(DEFAULT_CONTEXT, maxContext), sequences: body.sequences };
}

function plannedForm(layout: FormLayout, run: RunShape, admission: Admission | undefined): PlannedForm {
  const admitted = admission?.forms.find(({ form }) => form === layout.form);
  // Another context or number of sequences takes another amount.
  const isSameRun = admission?.context === run.context && admission.sequences === run.sequences;
  const measured = isSameRun ? admitted?.load?.peak_bytes : undefined;
  return {
    form: layout.form,
    fileBytes: layout.fileBytes,
    layout,
    kl: admitted?.loss?.kl_mean,
    perplexityRatio: admitted?.loss?.perplexity_ratio,
    measuredBytes: measured,
    ...(admitted?.rejected == null ? {} : { rejected: admitted.rejected }),
    layers: layout.shape.layers,
    footprint: (gpuLayers) => measuredFootprint(footprintOf(layout, run, gpuLayers), measured),
  };
}

/** Measured beats estimated where it was measured: with nothing on the GPU. */
function measuredFootprint(estimate: Footprint, measured: number | undefined): Footprint {
  if (measured === undefined || estimate.gpuLayers > 0) return estimate;
  return { ...estimate, ram: { ...estimate.ram, total: measured } };
}
