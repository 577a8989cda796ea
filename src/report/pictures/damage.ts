import * as Plot from "@observablehq/plot";
import type { LayerDamage } from "../damage-section.js";
import { significant } from "../number-words.js";
import { QUIET_AXIS, svgPlot } from "./svg-plot.js";

const MEASURES = { error: "output error", kl: "KL of its swap" } as const;

/** A row of bars for each measure of damage that there is, layer by layer. Empty where there is none. */
export function layerDamageBars(damage: readonly LayerDamage[]): string {
  return (["error", "kl"] as const)
    .map((measure) => {
      const points = damage.flatMap((each) => {
        const value = each[measure];
        return value === undefined ? [] : [{ layer: each.layer, value }];
      });
      return points.length === 0 ? "" : bars(points, MEASURES[measure]);
    })
    .join("");
}

function bars(points: readonly { layer: number; value: number }[], measure: string): string {
  const worst = points.reduce((most, point) => (point.value > most.value ? point : most));
  const every = Math.max(1, Math.ceil(points.length / 16));
  return svgPlot(
    {
      width: 720,
      height: 170,
      marginLeft: 64,
      marginTop: 24,
      marginBottom: 30,
      x: {
        type: "band",
        domain: points.map(({ layer }) => layer),
        ticks: points.map(({ layer }) => layer).filter((_, at) => at % every === 0),
        label: null,
        ...QUIET_AXIS,
      },
      y: { label: measure, ticks: 3, tickFormat: (value: number) => significant(value, 2), tickSize: 0, zero: true },
      marks: [
        Plot.gridY({ stroke: "var(--rule)", strokeOpacity: 1, ticks: 3 }),
        Plot.barY(points, {
          x: "layer",
          y: "value",
          fill: "var(--killed)",
          title: (d: (typeof points)[number]) => `layer ${d.layer}: ${significant(d.value, 3)}`,
        }),
      ],
    },
    {
      alt: `${measure} of ${points.length} layers, most in layer ${worst.layer}: ${significant(worst.value, 3)}.`,
      minWidth: 480,
    },
  );
}
