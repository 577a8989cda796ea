import * as Plot from "@observablehq/plot";
import { count, isNumber, percent, significant } from "../number-words.js";
import type { QualityNumbers } from "../report-input.js";
import { svgPlot } from "./svg-plot.js";

/** Mean NLL along the text for both models. */
export function nllCurve(quality: QualityNumbers): string {
  const points = quality.nll_curve
    .filter(({ nll_model }) => isNumber(nll_model))
    .map((point) => ({
      at: (point.token_start + point.token_end) / 2,
      model: point.nll_model,
      donor: point.nll_donor,
    }));
  if (points.length < 2) return "";
  const paired = points.filter((point): point is { at: number; model: number; donor: number } => isNumber(point.donor));
  const values = points.flatMap(({ model, donor }) => (isNumber(donor) ? [model, donor] : [model]));
  const low = values.reduce((a, b) => Math.min(a, b));
  const high = values.reduce((a, b) => Math.max(a, b));
  const pad = Math.max((high - low) * 0.08, 0.01);
  const svg = svgPlot(
    {
      width: 860,
      height: 280,
      marginLeft: 48,
      marginRight: 16,
      marginTop: 24,
      marginBottom: 40,
      x: {
        ticks: 8,
        tickSize: 0,
        tickFormat: (n) => count(n),
        label: "token of the text",
        labelAnchor: "center",
        labelArrow: "none",
      },
      y: {
        domain: [Math.max(0, low - pad), high + pad],
        ticks: 5,
        tickSize: 0,
        label: "nats a token",
        labelArrow: "none",
      },
      marks: [
        Plot.gridY({ stroke: "var(--rule)", strokeOpacity: 1, ticks: 5 }),
        ...(paired.length > 1
          ? [
              Plot.areaY(paired, { x: "at", y1: "donor", y2: "model", fill: "var(--yellow)", fillOpacity: 0.25 }),
              Plot.lineY(paired, { x: "at", y: "donor", stroke: "var(--alive)", strokeWidth: 1.25 }),
            ]
          : []),
        Plot.lineY(points, { x: "at", y: "model", stroke: "var(--killed)", strokeWidth: 1.25 }),
      ],
    },
    {
      alt: `Mean negative log-likelihood along ${count(quality.protocol.tokens)} predictions: operated model ${significant(quality.model.mean_nll)} nats a token on average${quality.donor === null ? "" : `, donor ${significant(quality.donor.mean_nll)}`}.`,
      minWidth: 720,
    },
  );
  const key = (colour: string, label: string) =>
    `<span><i class="key" style="background:var(--${colour})"></i>${label}</span>`;
  return `${svg}<p class="legend">${key("killed", "operated")}${quality.donor === null ? "" : key("alive", "donor")}</p>`;
}

/** `0.01`, `10⁻⁶` */
function powerOfTen(power: number): string {
  if (Math.abs(power) <= 3) return String(Number((10 ** power).toPrecision(1)));
  return `10${[...String(power)].map((digit) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(digit)]).join("")}`;
}

/** Places of the text by KL divergence, logarithmic. */
export function divergence(quality: QualityNumbers): string {
  const histogram = quality.kl_histogram;
  if (histogram === null || quality.divergence === null) return "";
  const { log10_edges: edges, counts, underflow, overflow } = histogram;
  const bins = counts.flatMap((n, i) => (edges[i + 1] > edges[i] ? [{ n, from: edges[i], to: edges[i + 1] }] : []));
  const all = counts.reduce((sum, n) => sum + n, underflow + overflow);
  if (bins.length === 0 || all === 0) return "";
  const { kl_mean: mean, kl_median: median } = quality.divergence;
  const inside = (value: number) =>
    value > 0 && Math.log10(value) >= edges[0] && Math.log10(value) <= edges[edges.length - 1];
  const rules = [
    { at: median, label: "median", anchor: "end" as const, dx: -6 },
    { at: mean, label: "mean", anchor: "start" as const, dx: 6 },
  ].filter(({ at }) => inside(at));
  const whole = Math.ceil(edges[0]);
  const ticks = Array.from({ length: Math.floor(edges[edges.length - 1]) - whole + 1 }, (_, i) => whole + i);
  const svg = svgPlot(
    {
      width: 860,
      height: 250,
      marginLeft: 48,
      marginRight: 16,
      marginTop: 30,
      marginBottom: 40,
      x: {
        domain: [edges[0], edges[edges.length - 1]],
        ticks,
        tickSize: 0,
        tickFormat: powerOfTen,
        label: "KL divergence, nats",
        labelAnchor: "center",
        labelArrow: "none",
      },
      y: { ticks: 4, tickSize: 0, label: "places", labelArrow: "none", tickFormat: (n) => count(n) },
      marks: [
        Plot.gridY({ stroke: "var(--rule)", strokeOpacity: 1, ticks: 4 }),
        Plot.rectY(bins, {
          x1: "from",
          x2: "to",
          y: "n",
          fill: "var(--alive)",
          inset: 0.5,
          title: (d: (typeof bins)[number]) =>
            `${significant(10 ** d.from, 3)} to ${significant(10 ** d.to, 3)}: ${count(d.n)} places`,
        }),
        Plot.ruleY([0], { stroke: "var(--soft)" }),
        Plot.ruleX(rules, {
          x: (d: (typeof rules)[number]) => Math.log10(d.at),
          stroke: "var(--ink)",
          strokeWidth: 1.25,
        }),
        ...rules.map((rule) =>
          Plot.text([rule], {
            x: (d: typeof rule) => Math.log10(d.at),
            frameAnchor: "top",
            dy: -16,
            dx: rule.dx,
            textAnchor: rule.anchor,
            text: (d: typeof rule) => `${d.label} ${significant(d.at, 3)}`,
            fill: "var(--ink)",
          }),
        ),
      ],
    },
    {
      alt: `Histogram of ${count(all)} places of the text by their KL divergence from the donor: median ${significant(median, 3)}, mean ${significant(mean, 3)} nats.`,
      minWidth: 720,
    },
  );
  const outside = [
    underflow > 0 ? `${count(underflow)} places (${percent(underflow / all)}) lie left of the axis` : "",
    overflow > 0 ? `${count(overflow)} right of it` : "",
  ].filter((text) => text !== "");
  return `${svg}${outside.length > 0 ? `<p class="legend">${outside.join(", ")}.</p>` : ""}`;
}
