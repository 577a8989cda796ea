import type { Tier } from "../config/organ-farm.js";
import { sizeWords } from "../config/units.js";
import type { Footprint } from "./footprint.js";

/** A form of a body with what is known of it. */
export interface FormFacts {
  readonly form: string;
  readonly fileBytes: number;
  /** Mean KL divergence from the donor in nats, measured by admission; `undefined` before. */
  readonly kl: number | undefined;
  /** Why the form may not be served, where admission said so. */
  readonly rejected?: string;
  readonly layers: number;
  /** Memory with so many layers on the GPU. */
  footprint(gpuLayers: number): Footprint;
}

export interface Budget {
  readonly VRAM: number;
  readonly RAM: number;
  readonly SSD: number;
}

/** One way to run a body. */
export interface Placement {
  readonly form: string;
  readonly tier: Tier;
  readonly gpuLayers: number;
  readonly kl: number | undefined;
  readonly need: { readonly VRAM: number; readonly RAM: number };
  /** Why this one, in a sentence. */
  readonly reason: string;
}

export interface Choice {
  /** Ways to run the body, the best first; empty where there is none. */
  readonly placements: readonly Placement[];
  /** What stands in the way of better ones, in sentences. */
  readonly notes: readonly string[];
}

/**
 * How to run a body that is wanted in `tier`: the form of least measured loss that fits the tier whole; else the layers
 * that fit, of the form of least loss; else the next tier. What was not chosen is said, and why.
 *
 * A form that was not measured comes behind every one that was, and among its like the larger one comes first: more
 * bits lose less, but that is an assumption, and the reason says so.
 *
 * Where the file says how many layers go to the GPU (`gpuLayers`: layers + 1 for all and the head), exactly so many do,
 * of the form of least loss with which that fits; where it fits with none, the body is not run, and the notes say why.
 */
export function choose(
  forms: readonly FormFacts[],
  tier: Tier,
  budget: Budget,
  gpuLayers: number | "auto" = "auto",
): Choice {
  const notes: string[] = [];
  for (const { form, rejected } of forms) if (rejected !== undefined) notes.push(`${form} is left out: ${rejected}`);
  const usable = forms.filter(({ rejected }) => rejected === undefined).sort(byLoss);
  if (tier === "SSD") return { placements: [], notes };
  if (gpuLayers !== "auto") return { placements: withLayers(usable, gpuLayers, budget, notes), notes };
  const placements: Placement[] = [];
  if (tier === "VRAM") {
    placements.push(...inVram(usable, budget, notes));
    if (placements.length === 0) placements.push(...split(usable, budget));
  }
  placements.push(...inRam(usable, tier, budget, notes));
  return { placements, notes };
}

function inVram(usable: readonly FormFacts[], budget: Budget, notes: string[]): Placement[] {
  const found: Placement[] = [];
  const tooLarge: string[] = [];
  for (const form of usable) {
    const { vram, ram } = form.footprint(form.layers + 1);
    if (vram.total > budget.VRAM) {
      tooLarge.push(`${form.form} needs ${sizeWords(vram.total)} of ${sizeWords(budget.VRAM)}`);
    } else if (ram.total > budget.RAM) {
      tooLarge.push(`${form.form} needs ${sizeWords(ram.total)} of ${sizeWords(budget.RAM)} RAM beside it`);
    } else {
      const larger = tooLarge.length === 0 ? "" : `; ${tooLarge.join(", ")}`;
      const reason = `fits VRAM whole with ${lossWords(form)} of those that do${larger}`;
      found.push({ ...placed(form, "VRAM", form.layers + 1), reason });
    }
  }
  if (tooLarge.length > 0) notes.push(`not whole in VRAM: ${tooLarge.join("; ")}`);
  return found;
}

/** As many layers on the GPU as it holds. */
function split(usable: readonly FormFacts[], budget: Budget): Placement[] {
  return usable.flatMap((form) => {
    const layers = mostLayers(form, budget, false);
    if (layers === 0) return [];
    const reason =
      `no form fits VRAM whole; ${layers} of ${form.layers} layers of ${form.form} do, with ${lossWords(form)}, and ` +
      "the rest is in RAM";
    return [{ ...placed(form, "VRAM", layers), reason }];
  });
}

/** Exactly so many layers on the GPU: what the file says is done or refused, never bent. */
function withLayers(usable: readonly FormFacts[], gpuLayers: number, budget: Budget, notes: string[]): Placement[] {
  const said = `gpu_layers is ${gpuLayers}`;
  return usable.flatMap((form) => {
    if (gpuLayers > form.layers + 1) {
      notes.push(`${said}: ${form.form} has ${form.layers} layers and the head, so ${form.layers + 1} at most`);
      return [];
    }
    const lacking = shortOf(form.footprint(gpuLayers), budget);
    if (lacking.length > 0) {
      notes.push(`${said}: with so many ${form.form} needs ${lacking.join(" and ")}; lower it, or say "auto"`);
      return [];
    }
    const tier = gpuLayers > 0 ? "VRAM" : "RAM";
    const reason = `${said}, and so it fits with ${lossWords(form)} of those that do`;
    return [{ ...placed(form, tier, gpuLayers), reason }];
  });
}

function shortOf({ vram, ram }: Footprint, budget: Budget): string[] {
  const short = (need: number, most: number, tier: string): string[] =>
    need > most ? [`${sizeWords(need)} of ${sizeWords(most)} ${tier}`] : [];
  return [...short(vram.total, budget.VRAM, "VRAM"), ...short(ram.total, budget.RAM, "RAM")];
}

function inRam(usable: readonly FormFacts[], tier: Tier, budget: Budget, notes: string[]): Placement[] {
  const fallen = tier === "VRAM" ? `VRAM (${sizeWords(budget.VRAM)}) holds too little of it; ` : "";
  return usable.flatMap((form) => {
    const { ram } = form.footprint(0);
    if (ram.total > budget.RAM) {
      notes.push(`not in RAM: ${form.form} needs ${sizeWords(ram.total)} of ${sizeWords(budget.RAM)}`);
      return [];
    }
    return [{ ...placed(form, "RAM", 0), reason: `${fallen}fits RAM with ${lossWords(form)} of those that do` }];
  });
}

function placed(form: FormFacts, tier: Tier, gpuLayers: number): Omit<Placement, "reason"> {
  const { vram, ram } = form.footprint(gpuLayers);
  return { form: form.form, tier, gpuLayers, kl: form.kl, need: { VRAM: vram.total, RAM: ram.total } };
}

function byLoss(a: FormFacts, b: FormFacts): number {
  if (a.kl !== undefined && b.kl !== undefined) return a.kl - b.kl || a.fileBytes - b.fileBytes;
  if (a.kl !== undefined) return -1;
  return b.kl !== undefined ? 1 : b.fileBytes - a.fileBytes;
}

/** Whether a footprint fits, on the GPU and beside it. */
export function fitsIn(footprint: Footprint, budget: Budget): boolean {
  return shortOf(footprint, budget).length === 0;
}

/** As many of a form's layers as the GPU holds, the head beside them where `withHead`; 0 where none. */
export function mostLayers(form: FormFacts, budget: Budget, withHead: boolean): number {
  for (let layers = form.layers + (withHead ? 1 : 0); layers > 0; layers--) {
    if (fitsIn(form.footprint(layers), budget)) return layers;
  }
  return 0;
}

function lossWords({ kl }: FormFacts): string {
  return kl === undefined
    ? "the most bits (no loss is measured yet: run physarium farm admit)"
    : `the least measured loss (KL ${kl.toPrecision(3)} nats)`;
}
