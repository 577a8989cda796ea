import * as Plot from "@observablehq/plot";
import type { TensorRow } from "../../record/surgery-report.js";
import { sortProjections } from "../layer-grid.js";
import { count, percent } from "../number-words.js";
import { labelsOf } from "./layer-map.js";
import { rampRange } from "./ramp.js";
import { percentTicks, svgPlot } from "./svg-plot.js";

const BARS = 56;
/** Positions of ticks along the axis: tensors that share one are drawn once, darker. */
const TICK_POSITIONS = 280;
const MAX_STRIPS = 16;

/** How many tensors ended at which sparsity, and where the tensors of each projection lie. */
export function distribution(rows: readonly TensorRow[]): string {
  const sound = rows.filter((row) => row.weights > 0 && Number.isFinite(row.sparsity));
  if (sound.length === 0) return "";
  let min = Number.POSITIVE_INFINITY;
  let max = Number.NEGATIVE_INFINITY;
  for (const { sparsity } of sound) {
    min = Math.min(min, sparsity);
    max = Math.max(max, sparsity);
  }
  const [low, high] = rampRange(min, max);
  const width = (high - low) / BARS;
  const bars = new Array<number>(BARS).fill(0);
  const weights = new Map<string, number>();
  const ticks = new Map<string, Map<number, number>>();
  for (const row of sound) {
    bars[Math.min(BARS - 1, Math.floor((row.sparsity - low) / width))]++;
    weights.set(row.projection, (weights.get(row.projection) ?? 0) + row.weights);
    const position = Math.round(((row.sparsity - low) / (high - low)) * TICK_POSITIONS);
    let line = ticks.get(row.projection);
    if (line === undefined) {
      line = new Map();
      ticks.set(row.projection, line);
    }
    line.set(position, (line.get(position) ?? 0) + 1);
  }
  const heaviest = [...weights].sort((a, b) => b[1] - a[1]).slice(0, MAX_STRIPS);
  const projections = sortProjections(heaviest.map(([projection]) => projection));
  const labels = labelsOf(projections);
  const left = Math.max(44, 14 + 7 * Math.max(...[...labels.values()].map((label) => label.length)));
  const domain = [low - width, high + width];
  const most = bars.indexOf(bars.reduce((a, b) => Math.max(a, b)));
  const top = svgPlot(
    {
      width: 860,
      height: 150,
      marginLeft: left,
      marginRight: 16,
      marginTop: 16,
      marginBottom: 4,
      x: { domain, axis: null },
      y: {
        ticks: 3,
        tickSize: 0,
        label: "tensors",
        labelArrow: "none",
        tickFormat: (n) => (Number.isInteger(n) ? count(n) : ""),
      },
      marks: [
        Plot.gridY({ stroke: "var(--rule)", strokeOpacity: 1, ticks: 3 }),
        Plot.rectY(
          bars.map((n, i) => ({ n, from: low + i * width, to: low + (i + 1) * width })).filter(({ n }) => n > 0),
          { x1: "from", x2: "to", y: "n", fill: "var(--killed)", inset: 0.5, rx: 1 },
        ),
        Plot.ruleY([0], { stroke: "var(--soft)" }),
      ],
    },
    {
      alt:
        `Histogram of ${count(sound.length)} tensors by sparsity, from ${percent(min)} to ${percent(max)}; most lie ` +
        `near ${percent(low + (most + 0.5) * width, 1)}.`,
      minWidth: 720,
    },
  );
  const marks = projections.flatMap((projection) =>
    [...(ticks.get(projection) ?? [])].map(([position, n]) => ({
      projection,
      n,
      sparsity: low + (position / TICK_POSITIONS) * (high - low),
    })),
  );
  const bottom = svgPlot(
    {
      width: 860,
      height: 24 * projections.length + 40,
      marginLeft: left,
      marginRight: 16,
      marginTop: 2,
      marginBottom: 36,
      x: {
        domain,
        ticks: 8,
        tickFormat: percentTicks(low, high),
        tickSize: 0,
        label: "zeros of the tensor's weights",
        labelAnchor: "center",
        labelArrow: "none",
      },
      y: { type: "band", domain: projections, tickSize: 0, label: null, tickFormat: (p) => labels.get(p) ?? "" },
      marks: [
        Plot.gridX({ stroke: "var(--rule)", strokeOpacity: 1, ticks: 8 }),
        Plot.tickX(marks, {
          x: "sparsity",
          y: "projection",
          stroke: "var(--ink)",
          strokeOpacity: {
            value: (d: (typeof marks)[number]) => Math.min(1, 0.45 + 0.2 * Math.log2(d.n)),
            scale: null,
          },
          strokeWidth: 1.5,
          inset: 4,
          ...(marks.length <= 2000
            ? {
                title: (d: (typeof marks)[number]) =>
                  `${d.projection}: ${d.n === 1 ? "1 tensor" : `${count(d.n)} tensors`} near ${percent(d.sparsity)}`,
              }
            : {}),
        }),
      ],
    },
    {
      alt: `The same tensors by projection: ${projections.length} rows of ticks along the sparsity axis.`,
      minWidth: 720,
    },
  );
  const rest = weights.size - projections.length;
  const more = rest > 0 ? `<p class="legend">${count(rest)} more projections are in the histogram only.</p>` : "";
  return `${top}${bottom}${more}`;
}
