import * as Plot from "@observablehq/plot";
import type { Figures } from "../../record/surgery-report.js";
import { count, isNumber, percent, significant } from "../number-words.js";
import { starvedShare } from "../sections.js";
import { svgPlot } from "./svg-plot.js";

/** Histogram of drives, the starving ones in the colour of what is killed, with the cut drawn in. */
export function drives(histogram: Figures["drive_histogram"] | undefined): string {
  if (histogram == null || histogram.counts.length === 0) return "";
  const { bin_edges: edges, counts, threshold } = histogram;
  const last = counts.length - 1;
  // Density, so that bins of unequal width do not lie; equal widths give the counts up to a factor.
  const bins = counts.flatMap((n, i) => {
    const [from, to] = [edges[i], edges[i + 1]];
    if (!isNumber(n) || !isNumber(from) || !isNumber(to) || !(to > from)) return [];
    const bin = { density: n / (to - from), n, open: i === last };
    if (threshold <= from) return [{ ...bin, from, to, dies: false }];
    if (threshold >= to) return [{ ...bin, from, to, dies: true }];
    return [
      { ...bin, from, to: threshold, dies: true },
      { ...bin, from: threshold, to, dies: false },
    ];
  });
  const all = counts.reduce((sum, n) => sum + (isNumber(n) ? n : 0), 0);
  if (bins.length === 0 || all === 0) return "";
  const highest = bins.reduce((most, bin) => Math.max(most, bin.density), 0);
  const xDomain = [bins[0].from, bins[bins.length - 1].to];
  const inside = threshold >= xDomain[0] && threshold <= xDomain[1];
  return svgPlot(
    {
      width: 860,
      height: 300,
      marginLeft: 16,
      marginRight: 16,
      marginTop: 40,
      marginBottom: 40,
      x: {
        domain: xDomain,
        ticks: 8,
        tickSize: 0,
        label: "drive, in units of the tile's mean",
        labelAnchor: "center",
        labelArrow: "none",
      },
      y: { axis: null, domain: [0, highest * 1.02] },
      marks: [
        Plot.rectY(bins, {
          x1: "from",
          x2: "to",
          y: "density",
          fill: { value: (d: (typeof bins)[number]) => (d.dies ? "var(--killed)" : "var(--alive)"), scale: null },
          fillOpacity: { value: (d: (typeof bins)[number]) => (d.open ? 0.45 : 1), scale: null },
          insetLeft: 0.5,
          insetRight: 0.5,
          title: (d: (typeof bins)[number]) =>
            `${d.open ? `${significant(d.from)} and above` : `${significant(d.from)} to ${significant(d.to)}`}: ` +
            `${count(d.n)} weights in the bin`,
        }),
        Plot.ruleY([0], { stroke: "var(--soft)" }),
        ...(inside
          ? [
              Plot.ruleX([threshold], { stroke: "var(--ink)", strokeWidth: 1.5, insetTop: -14 }),
              Plot.text([`cut ${significant(threshold)}`], {
                x: [threshold],
                frameAnchor: "top",
                dy: -30,
                dx: 6,
                textAnchor: "start",
                fill: "var(--ink)",
                fontWeight: 600,
              }),
              Plot.text(["starve"], {
                x: [threshold],
                frameAnchor: "top",
                dy: -14,
                dx: -8,
                textAnchor: "end",
                fill: "var(--killed-text)",
              }),
              Plot.text(["live"], {
                x: [threshold],
                frameAnchor: "top",
                dy: -14,
                dx: 8,
                textAnchor: "start",
                fill: "var(--alive-text)",
              }),
            ]
          : []),
      ],
    },
    {
      alt:
        `Histogram of ${count(all)} drives between ${significant(xDomain[0])} and ${significant(xDomain[1])}. The ` +
        `cut lies at ${significant(threshold)}; ${percent(starvedShare(histogram), 1)} of these sampled weights lie ` +
        `left of it and starve. The last bar holds everything above ${significant(edges[last])}.`,
      minWidth: 720,
    },
  );
}
