import * as Plot from "@observablehq/plot";
import type { ComparisonRecord } from "../../record/comparison.js";
import { type ComparisonTitles, methodTitle, targetOf } from "../comparison.js";
import { fixed } from "../number-words.js";
import { standalone, svgPlot } from "./svg-plot.js";

/** The methods this picture is about; the others stand back. */
const OURS = ["activation", "matched"];

/**
 * Damage of every method, one panel a target, logarithmic: a file of its own, so its colours are plain. Empty where
 * nothing can be drawn.
 */
export function comparisonPicture(record: ComparisonRecord, titles: ComparisonTitles): string {
  const points = record.rows
    .filter(({ damage }) => damage > 0)
    .map((row) => ({
      target: targetOf(row),
      method: methodTitle(row, titles),
      damage: row.damage,
      colour: OURS.includes(row.method) ? "var(--ours)" : "var(--others)",
    }));
  if (points.length === 0) return "";
  const targets = [...new Set(points.map(({ target }) => target))];
  const methods = [...new Set(points.map(({ method }) => method))];
  const svg = svgPlot(
    {
      width: 900,
      height: 40 + targets.length * (methods.length * 18 + 30),
      marginLeft: 275,
      marginRight: 90,
      marginBottom: 40,
      x: { type: "log", label: "damage: ln perplexity − ln dense perplexity", grid: true, tickFormat: (n) => `${n}` },
      y: { domain: methods, label: null, tickSize: 0 },
      fy: { domain: targets, label: null },
      marks: [
        Plot.frame({ stroke: "var(--rule)" }),
        Plot.dot(points, { x: "damage", y: "method", fy: "target", fill: "colour", r: 4.5 }),
        Plot.text(points, {
          x: "damage",
          y: "method",
          fy: "target",
          text: ({ damage }) => fixed(damage, damage < 0.1 ? 4 : 3),
          dx: 10,
          textAnchor: "start",
          fill: "colour",
        }),
      ],
    },
    { alt: `Damage of ${methods.length} methods at ${targets.join(", ")} on ${record.donor}` },
  );
  return standalone(svg);
}
