import type { Command } from "commander";
import { jsonLine, printable } from "../../errors.js";
import { sizeWords } from "../../farm/config/units.js";
import { fitsIn, mostLayers } from "../../farm/plan/choose.js";
import { type BodyPlan, type PlannedForm, planFarm } from "../../farm/plan/farm-plan.js";
import { budgetOf, type MachineBudget } from "../../farm/plan/machine.js";
import { StateFolder } from "../../farm/state/state-folder.js";
import { addFarmOptions, type FarmFlags, openFarm, toSize } from "./options.js";

interface PlanFlags extends FarmFlags {
  vram?: number;
  ram?: number;
  ssd?: number;
  layers?: boolean;
}

/** `physarium farm plan` */
export function registerFarmPlan(farm: Command): void {
  addFarmOptions(
    farm
      .command("plan")
      .description("what each body takes in each form and tier, and which is chosen, with the reason; loads nothing")
      .option("--vram <size>", "plan for so much video memory instead of the file's", toSize)
      .option("--ram <size>", "plan for so much RAM", toSize)
      .option("--ssd <size>", "plan for so much disk", toSize)
      .option("--layers", "every number of layers on the GPU, not the telling ones alone"),
  ).action(async (flags: PlanFlags) => {
    const opened = await openFarm(flags);
    const state = new StateFolder(opened);
    const { vram, ram, ssd } = flags;
    const asked = {
      ...(vram === undefined ? {} : { VRAM: vram }),
      ...(ram === undefined ? {} : { RAM: ram }),
      ...(ssd === undefined ? {} : { SSD: ssd }),
    };
    const budget = await budgetOf(opened, asked, state.path);
    const plans = await planFarm(opened, budget, await state.admissions(opened));
    process.stdout.write(
      flags.json
        ? jsonLine({
            file: opened.path,
            budget: budgetJson(budget),
            bodies: plans.map((plan) => planJson(plan, budget)),
          })
        : `${printable(planWords(plans, budget, flags.layers ?? false), true)}\n`,
    );
  });
}

function budgetJson({ VRAM, RAM, SSD, words }: MachineBudget) {
  return { VRAM, RAM, SSD, from: words };
}

function planJson(plan: BodyPlan, budget: MachineBudget) {
  return {
    body: plan.body,
    source: plan.source,
    tier: plan.tier,
    gpu_layers: plan.gpuLayers,
    context: plan.run.context,
    sequences: plan.run.sequences,
    forms: plan.forms.map((form) => ({
      form: form.form,
      file_bytes: form.fileBytes,
      kl: form.kl ?? null,
      perplexity_ratio: form.perplexityRatio ?? null,
      measured_bytes: form.measuredBytes ?? null,
      rejected: form.rejected ?? null,
      fits: fitsOf(form, budget),
      layers: Array.from({ length: form.layers + 2 }, (_, gpuLayers) => {
        const { vram, ram } = form.footprint(gpuLayers);
        return { gpu_layers: gpuLayers, vram, ram };
      }),
    })),
    chosen: plan.chosen === undefined ? null : placementJson(plan.chosen),
    alternatives: plan.choice.placements.slice(1).map(placementJson),
    notes: plan.choice.notes,
    warnings: plan.warnings,
    on_disk_only: plan.chosen === undefined,
  };
}

function placementJson({ form, tier, gpuLayers, kl, need, reason }: NonNullable<BodyPlan["chosen"]>) {
  return { form, tier, gpu_layers: gpuLayers, kl: kl ?? null, need, reason };
}

/** Where a form fits, in each tier by itself. */
function fitsOf(form: PlannedForm, budget: MachineBudget) {
  return {
    VRAM: fitsIn(form.footprint(form.layers + 1), budget),
    gpu_layers: mostLayers(form, budget, true),
    RAM: form.footprint(0).ram.total <= budget.RAM,
    SSD: form.fileBytes <= budget.SSD,
  };
}

function planWords(plans: readonly BodyPlan[], budget: MachineBudget, allLayers: boolean): string {
  const lines = [
    `budget  ${(["VRAM", "RAM", "SSD"] as const)
      .map((tier) => `${tier} ${sizeWords(budget[tier])} (${budget.words[tier]})`)
      .join(", ")}`,
  ];
  for (const plan of plans) lines.push("", ...bodyWords(plan, budget, allLayers));
  if (plans.length === 0) lines.push("", "the farm has no bodies yet: physarium farm add");
  return lines.join("\n");
}

function bodyWords(plan: BodyPlan, budget: MachineBudget, allLayers: boolean): string[] {
  const { run, forms } = plan;
  const layers = plan.gpuLayers === "auto" ? "" : ` with gpu_layers ${plan.gpuLayers}`;
  const lines = [
    `${plan.body}  ${plan.source}, wanted in ${plan.tier}${layers}, ${run.sequences} × ${run.context} tokens`,
    row("form", "layers on GPU", "weights", "KV", "buffers", "VRAM", "RAM", "KL", "fits"),
  ];
  const asked = plan.gpuLayers === "auto" ? [] : [plan.gpuLayers];
  for (const form of forms) {
    const whole = form.layers + 1;
    const most = mostLayers(form, budget, true);
    const telling = allLayers
      ? Array.from({ length: whole + 1 }, (_, at) => whole - at)
      : [...new Set([whole, most, ...asked, 0])].filter((layers) => layers <= whole).sort((a, b) => b - a);
    for (const layers of telling) {
      const footprint = form.footprint(layers);
      const { vram, ram } = footprint;
      lines.push(
        row(
          form.form,
          layers === whole ? `all ${form.layers} + head` : `${layers} of ${form.layers}`,
          sizeWords(vram.weights + ram.weights),
          sizeWords(vram.kv + ram.kv),
          sizeWords(vram.buffers + ram.buffers),
          sizeWords(vram.total),
          `${sizeWords(ram.total)}${layers === 0 && form.measuredBytes !== undefined ? " measured" : ""}`,
          form.kl === undefined ? "not measured" : form.kl.toPrecision(3),
          form.rejected !== undefined ? "rejected" : fitsIn(footprint, budget) ? "yes" : "no",
        ),
      );
    }
    if (form.fileBytes > budget.SSD)
      lines.push(`  ${form.form}: its file of ${sizeWords(form.fileBytes)} does not fit the SSD`);
  }
  const { chosen } = plan;
  lines.push(
    chosen === undefined
      ? "chosen  none: the body can lie on the disk and not answer"
      : `chosen  ${chosen.form}, ${placeWords(chosen)}: ${chosen.reason}`,
  );
  for (const note of plan.choice.notes) lines.push(`note    ${note}`);
  for (const warning of plan.warnings) lines.push(`warning ${warning}`);
  return lines;
}

function placeWords({ tier, gpuLayers, need }: NonNullable<BodyPlan["chosen"]>): string {
  if (tier === "RAM") return `RAM (${sizeWords(need.RAM)})`;
  return `${gpuLayers} layers in VRAM (${sizeWords(need.VRAM)}, RAM ${sizeWords(need.RAM)})`;
}

function row(...cells: readonly string[]): string {
  const widths = [6, 15, 10, 10, 10, 10, 18, 13, 8];
  return `  ${cells.map((cell, at) => cell.padEnd(widths[at])).join(" ")}`.trimEnd();
}
