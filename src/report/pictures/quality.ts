import * as Plot from "@observablehq/plot";
import type { QualityNumbers } from "../../record/report-input.js";
import { count, isNumber, percent, significant } from "../number-words.js";
import { withoutEmptyEnds } from "../quality-section.js";
import { svgPlot } from "./svg-plot.js";

/** Points a line may have before neighbours are pooled: the loss of a single window is mostly the window. */
const MAX_POINTS = 72;

/** Mean NLL along the text for both models, and under it what lies between them, on a scale of its own. */
export function nllCurve(quality: QualityNumbers): string {
  const points = pool(quality.nll_curve);
  if (points.length < 2) return "";
  const paired = points.filter((point): point is Pooled & { donor: number } => point.donor !== undefined);
  const both = paired.length === points.length;
  const values = points.flatMap(({ model, donor }) => (donor === undefined ? [model] : [model, donor]));
  const low = values.reduce((a, b) => Math.min(a, b));
  const high = values.reduce((a, b) => Math.max(a, b));
  const pad = Math.max((high - low) * 0.08, 0.01);
  const xDomain = [points[0].from, points[points.length - 1].to];
  const common = { width: 860, marginLeft: 56, marginRight: 16 };
  const tokens: Plot.ScaleOptions = {
    domain: xDomain,
    ticks: 8,
    tickSize: 0,
    tickFormat: (n: number) => count(n),
    label: "token of the text",
    labelAnchor: "center",
    labelArrow: "none",
  };
  const top = svgPlot(
    {
      ...common,
      height: both ? 220 : 260,
      marginTop: 26,
      marginBottom: both ? 8 : 40,
      x: both ? { domain: xDomain, axis: null } : tokens,
      y: {
        domain: [Math.max(0, low - pad), high + pad],
        ticks: 4,
        tickSize: 0,
        label: "nats a token",
        labelArrow: "none",
      },
      marks: [
        Plot.gridY({ stroke: "var(--rule)", strokeOpacity: 1, ticks: 4 }),
        ...(both ? [Plot.lineY(paired, { x: "at", y: "donor", stroke: "var(--alive)", strokeWidth: 2 })] : []),
        Plot.lineY(points, { x: "at", y: "model", stroke: "var(--killed)", strokeWidth: 1.5 }),
      ],
    },
    {
      alt:
        `Mean negative log-likelihood along ${count(quality.protocol.tokens)} predictions: operated model ` +
        `${significant(quality.model.mean_nll)} nats a token on ` +
        `average${quality.donor === null ? "" : `, donor ${significant(quality.donor.mean_nll)}`}.`,
      minWidth: 720,
    },
  );
  const key = (colour: string, label: string) =>
    `<span><i class="key" style="background:var(--${colour})"></i>${label}</span>`;
  if (!both) return `${top}<p class="legend">${key("killed", "operated")}</p>`;
  const costs = paired.map(({ from, to, model, donor }) => ({ from, to, cost: model - donor }));
  const worse = costs.filter(({ cost }) => cost > 0).length;
  const bottom = svgPlot(
    {
      ...common,
      height: 140,
      marginTop: 24,
      marginBottom: 40,
      x: tokens,
      y: { ticks: 3, tickSize: 0, label: "operated minus donor", labelArrow: "none" },
      marks: [
        Plot.gridY({ stroke: "var(--rule)", strokeOpacity: 1, ticks: 3 }),
        Plot.rectY(costs, {
          x1: "from",
          x2: "to",
          y: "cost",
          fill: { value: (d: (typeof costs)[number]) => (d.cost > 0 ? "var(--killed)" : "var(--alive)"), scale: null },
          insetLeft: 0.5,
          insetRight: 0.5,
          title: (d: (typeof costs)[number]) =>
            `tokens ${count(d.from)} to ${count(d.to)}: ${significant(d.cost, 3)} nats a token`,
        }),
        Plot.ruleY([0], { stroke: "var(--soft)" }),
      ],
    },
    {
      alt:
        `The difference of the two lines: the operated model is worse in ${count(worse)} of ${count(costs.length)} ` +
        "stretches of the text and better in the others.",
      minWidth: 720,
    },
  );
  return `${top}${bottom}<p class="legend">${key("killed", "operated")}${key("alive", "donor")}</p>`;
}

interface Pooled {
  readonly from: number;
  readonly to: number;
  readonly at: number;
  readonly model: number;
  readonly donor: number | undefined;
}

/** Neighbouring points as one, weighted by their tokens; without a donor where any of them has none. */
function pool(curve: QualityNumbers["nll_curve"]): Pooled[] {
  const sound = curve.filter(({ nll_model, token_start, token_end }) => isNumber(nll_model) && token_end > token_start);
  const size = Math.ceil(sound.length / MAX_POINTS);
  const pooled: Pooled[] = [];
  for (let start = 0; start < sound.length; start += size) {
    const part = sound.slice(start, start + size);
    const tokens = part.reduce((sum, { token_start, token_end }) => sum + token_end - token_start, 0);
    const mean = (of: (point: (typeof part)[number]) => number) =>
      part.reduce((sum, point) => sum + of(point) * (point.token_end - point.token_start), 0) / tokens;
    const from = part[0].token_start;
    const to = part[part.length - 1].token_end;
    pooled.push({
      from,
      to,
      at: (from + to) / 2,
      model: mean(({ nll_model }) => nll_model),
      donor: part.every(({ nll_donor }) => isNumber(nll_donor)) ? mean(({ nll_donor }) => nll_donor ?? 0) : undefined,
    });
  }
  return pooled;
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
  const { log10_edges: edges, counts, underflow, overflow } = withoutEmptyEnds(histogram);
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
      alt:
        `Histogram of ${count(all)} places of the text by their KL divergence from the donor: median ` +
        `${significant(median, 3)}, mean ${significant(mean, 3)} nats.`,
      minWidth: 720,
    },
  );
  const outside = [
    underflow > 0 ? `${count(underflow)} places (${percent(underflow / all)}) lie left of the axis` : "",
    overflow > 0 ? `${count(overflow)} right of it` : "",
  ].filter((text) => text !== "");
  return `${svg}${outside.length > 0 ? `<p class="legend">${outside.join(", ")}.</p>` : ""}`;
}
