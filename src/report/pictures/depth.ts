import * as Plot from "@observablehq/plot";
import { escapeHtml } from "../escape-html.js";
import type { LayerGrid } from "../layer-grid.js";
import { percent } from "../number-words.js";
import { median, type Remarks } from "../remarks.js";
import { labelsOf } from "./layer-map.js";
import { rampRange } from "./ramp.js";
import { percentTicks, svgPlot } from "./svg-plot.js";

/** Small multiples past these would be a wall; the table has the rest. */
const MAX_PANELS = 12;

/** One small picture a projection: sparsity along depth, all on the same scale. */
export function depthPanels(grid: LayerGrid, remarks: Remarks): string {
  if (grid.layers.length === 0 || !(grid.max >= grid.min)) return "";
  const [low, high] = rampRange(grid.min, grid.max);
  const marked = new Set(remarks.standOut.map(({ layer }) => layer));
  const first = grid.layers[0];
  const last = grid.layers[grid.layers.length - 1];
  const xDomain = first === last ? [first - 0.5, last + 0.5] : [first, last];
  const labels = labelsOf(grid.projections);
  const pad = (high - low) * 0.08;
  const shown = grid.projections.slice(0, MAX_PANELS);
  const panels = shown.map((projection, position) => {
    const points = grid.layers.flatMap((layer, i) => {
      const sparsity = grid.cells[position][i]?.sparsity;
      return sparsity === undefined ? [] : [{ layer, sparsity }];
    });
    if (points.length === 0) return "";
    const sorted = points.map((point) => point.sparsity).sort((a, b) => a - b);
    const usual = median(sorted) ?? 0;
    const loud = points.filter(({ layer }) => marked.has(layer));
    const named = loud.map((point) => `layer ${point.layer} ${percent(point.sparsity)}`).join(", ");
    const standingOut = loud.length > 0 ? `; standing out: ${named}` : "";
    const svg = svgPlot(
      {
        width: 208,
        height: 142,
        marginLeft: 48,
        marginRight: 10,
        marginTop: 10,
        marginBottom: 24,
        x: {
          type: "linear",
          domain: xDomain,
          ticks:
            first === last ? [first] : (last - first) % 2 === 0 ? [first, (first + last) / 2, last] : [first, last],
          tickFormat: "d",
          tickSize: 0,
          label: null,
        },
        y: {
          domain: [Math.max(0, low - pad), high + pad],
          ticks: 4,
          tickFormat: percentTicks(low, high),
          tickSize: 0,
          label: null,
        },
        marks: [
          Plot.gridY({ stroke: "var(--rule)", strokeOpacity: 1, ticks: 4 }),
          Plot.ruleY([usual], { stroke: "var(--soft)", strokeDasharray: "2 3" }),
          Plot.areaY(points, { x: "layer", y1: usual, y2: "sparsity", fill: "var(--yellow)", fillOpacity: 0.18 }),
          Plot.lineY(points, { x: "layer", y: "sparsity", stroke: "var(--killed)", strokeWidth: 1.75 }),
          Plot.dot(points.length <= 6 ? points : loud, {
            x: "layer",
            y: "sparsity",
            r: 3,
            fill: "var(--killed)",
            stroke: "var(--paper)",
            title: (d: (typeof points)[number]) => `layer ${d.layer}: ${percent(d.sparsity)}`,
          }),
        ],
      },
      {
        alt:
          `${projection} along depth: median ${percent(usual)}, from ${percent(sorted[0])} to ` +
          `${percent(sorted[sorted.length - 1])}${standingOut}.`,
      },
    );
    return `<div class="panel"><p class="panel-title">${escapeHtml(labels.get(projection) ?? "")}</p>${svg}</div>`;
  });
  const rest = grid.projections.length - shown.length;
  const note = rest > 0 ? `<p class="legend">${rest} more projections stand in the heat map and the table.</p>` : "";
  return `<div class="panels">${panels.join("")}</div>${note}`;
}
