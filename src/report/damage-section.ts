import type { ReportInput } from "../record/report-input.js";
import { percent, significant } from "./number-words.js";
import { type Block, paragraph, type Section, say, type Text } from "./report-text.js";
import { table } from "./table.js";

/** What a layer lost: how far its outputs moved, and what it costs alone. */
export interface LayerDamage {
  readonly layer: number;
  /** Relative output error after the last stage, averaged over the layer's matrices. */
  readonly error?: number;
  /** Mean KL divergence of the donor with this one layer put in, nats a token. */
  readonly kl?: number;
}

/** Damage by layer, from what v2 tells of its matrices and from `eval --layers`. */
export function layerDamage({ activation, quality }: ReportInput): LayerDamage[] {
  const errors = new Map<number, number[]>();
  for (const { name, stages } of activation?.tensors ?? []) {
    const layer = Number(/(?:^|\.)(\d+)\./.exec(name)?.[1] ?? Number.NaN);
    const last = stages.findLast(({ relative_error }) => relative_error !== undefined)?.relative_error;
    if (Number.isNaN(layer) || last === undefined) continue;
    errors.set(layer, [...(errors.get(layer) ?? []), last]);
  }
  const kl = new Map((quality?.layer_damage ?? []).map(({ layer, kl_mean }) => [layer, kl_mean]));
  const layers = [...new Set([...errors.keys(), ...kl.keys()])].sort((a, b) => a - b);
  return layers.map((layer) => {
    const of = errors.get(layer);
    const alone = kl.get(layer);
    return {
      layer,
      ...(of === undefined ? {} : { error: of.reduce((sum, each) => sum + each, 0) / of.length }),
      ...(alone === undefined ? {} : { kl: alone }),
    };
  });
}

/** The section; without a number of either kind there is none. */
export function damageSection(report: ReportInput): Section | undefined {
  const damage = layerDamage(report);
  if (damage.length === 0) return undefined;
  const hasError = damage.some(({ error }) => error !== undefined);
  const hasKl = damage.some(({ kl }) => kl !== undefined);
  const worst = [...damage].sort((a, b) => (hasKl ? (b.kl ?? 0) - (a.kl ?? 0) : (b.error ?? 0) - (a.error ?? 0)))[0];
  const columns = ["Layer", ...(hasError ? ["Output error"] : []), ...(hasKl ? ["KL of its swap"] : [])];
  const rows = damage.map(({ layer, error, kl }): Text[] => [
    say`${layer}`,
    ...(hasError ? [say`${percent(error)}`] : []),
    ...(hasKl ? [say`${significant(kl, 3)}`] : []),
  ]);
  const blocks: Block[] = [
    paragraph(
      say`${
        hasError
          ? "Output error: how far the outputs of a layer's matrices moved on the calibration text, relatively. "
          : ""
      }${
        hasKl
          ? "The KL of a swap is what the donor loses, in nats a token, with this one layer put in. "
          : "What each layer costs alone, physarium eval --layers measures. "
      }Most lost layer ${worst.layer}.`,
    ),
    {
      kind: "picture",
      picture: "damage",
      title: "Damage by layer",
      caption: say`From the first layer to the last; each row on a scale of its own.`,
    },
    {
      ...table(
        "Damage by layer",
        columns,
        rows,
        columns.map((_, at) => at),
      ),
      folded: true,
    },
  ];
  return { id: "damage", title: "Damage by layer", blocks };
}
