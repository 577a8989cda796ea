import * as Plot from "@observablehq/plot";
import type { SparsityCurve } from "../curve-section.js";
import { percent, significant } from "../number-words.js";
import { clip } from "../report-text.js";
import { percentTicks, svgPlot } from "./svg-plot.js";

const WIDTH = 860;
const TOP = 26;
const BOTTOM = 44;
/** Room for the names at the ends of the lines: as long as the longest, by a wide letter of 12 px, within bounds. */
const LETTER = 7.2;
const MAX_NAME = 46;
/** Pixels from one name to the next, so that none lies on another. */
const LINE = 15;

/** A line a method on a logarithmic axis, its name at its end, and a ring for the operation. Empty without a curve. */
export function curvePlot(curve: SparsityCurve | undefined): string {
  if (curve === undefined) return "";
  const { methods, run } = curve;
  const here = run.ratio === undefined ? [] : [{ sparsity: run.sparsity, ratio: run.ratio }];
  const all = [...methods.flatMap(({ points }) => points), ...here];
  const height = Math.max(320, TOP + BOTTOM + LINE * (methods.length + 1));
  const [low, high] = spread(all.map(({ ratio }) => ratio));
  const [left, right] = [0, Math.min(1, Math.max(run.sparsity, ...all.map(({ sparsity }) => sparsity)) * 1.03)];
  const marginRight = Math.max(
    120,
    16 + LETTER * Math.max(...methods.map(({ title }) => clip(title, MAX_NAME).length)),
  );
  const inner = height - TOP - BOTTOM;
  const toPixel = (ratio: number) => (inner * Math.log(high / ratio)) / Math.log(high / low);
  const names = apart(
    methods.map((method) => ({ ...method, end: method.points[method.points.length - 1] })),
    ({ end }) => toPixel(end.ratio),
    inner,
  ).map(({ item, pixel }) => ({ ...item, at: high * (low / high) ** (pixel / inner) }));
  const points = methods.flatMap(({ title, isOurs, points: own }) => own.map((point) => ({ ...point, title, isOurs })));
  const colour = ({ isOurs }: { isOurs: boolean }) => (isOurs ? "var(--killed)" : "var(--alive)");
  const plainColour = { value: colour, scale: null } as const;
  const label = `this: ${percent(run.sparsity, 1)}${run.ratio === undefined ? "" : `, × ${significant(run.ratio, 4)}`}`;
  // Its words lie where there is room: left of it in the right half.
  const side = run.sparsity > right / 2 ? -1 : 1;
  return svgPlot(
    {
      width: WIDTH,
      height,
      marginLeft: 60,
      marginRight,
      marginTop: TOP,
      marginBottom: BOTTOM,
      x: {
        domain: [left, right],
        ticks: 6,
        tickSize: 0,
        tickFormat: percentTicks(left, right),
        label: "zeros in the targets",
        labelAnchor: "center",
        labelArrow: "none",
      },
      y: {
        type: "log",
        domain: [low, high],
        ticks: ticksOf(low, high),
        tickSize: 0,
        tickFormat: (value: number) => `× ${significant(value, 3)}`,
        label: "perplexity, of the donor's",
        labelArrow: "none",
      },
      marks: [
        Plot.gridY(ticksOf(low, high), { stroke: "var(--rule)", strokeOpacity: 1 }),
        Plot.ruleX([run.sparsity], { stroke: "var(--soft)", strokeDasharray: "3,4" }),
        Plot.line(points, { x: "sparsity", y: "ratio", z: "title", stroke: plainColour, strokeWidth: 1.75 }),
        Plot.dot(points, {
          x: "sparsity",
          y: "ratio",
          fill: plainColour,
          r: 3,
          title: (d: (typeof points)[number]) => `${d.title}, ${percent(d.sparsity)}: × ${significant(d.ratio, 4)}`,
        }),
        Plot.link(names, {
          x1: (d: (typeof names)[number]) => d.end.sparsity,
          y1: (d: (typeof names)[number]) => d.end.ratio,
          x2: right,
          y2: "at",
          stroke: "var(--rule)",
        }),
        ...[true, false].map((isOurs) =>
          Plot.text(
            names.filter((name) => name.isOurs === isOurs),
            {
              x: right,
              y: "at",
              dx: 6,
              text: ({ title }) => clip(title, MAX_NAME),
              textAnchor: "start",
              fill: "var(--ink)",
              fontWeight: isOurs ? 600 : 400,
            },
          ),
        ),
        Plot.dot(here, {
          x: "sparsity",
          y: "ratio",
          stroke: "var(--ink)",
          strokeWidth: 2.5,
          fill: "var(--yellow)",
          r: 6,
        }),
        Plot.text([{ sparsity: run.sparsity }], {
          x: "sparsity",
          frameAnchor: "top",
          dy: -16,
          dx: 4 * side,
          text: () => label,
          textAnchor: side > 0 ? "start" : "end",
          fill: "var(--ink)",
        }),
      ],
    },
    {
      alt:
        `Perplexity over the donor's against the share of zeros for ${methods.length} methods; this operation has ` +
        `${percent(run.sparsity)} zeros${run.ratio === undefined ? "" : ` and × ${significant(run.ratio, 4)}`}.`,
      minWidth: 720,
    },
  );
}

/** The axis: all ratios, × 1, and a little room on both ends. */
function spread(ratios: readonly number[]): [low: number, high: number] {
  const low = Math.min(1, ...ratios);
  const high = Math.max(1, ...ratios);
  const pad = Math.max(high / low, 1.02) ** 0.06;
  return [low / pad, high * pad];
}

/** Round numbers of a logarithmic axis; where it spans little, those of a plain one. */
function ticksOf(low: number, high: number): number[] {
  if (high / low < 2) {
    const step = [1, 2, 5, 10].map((n) => n * 10 ** Math.floor(Math.log10((high - low) / 5)));
    const nice = step.find((each) => (high - low) / each <= 6) ?? step[3];
    const first = Math.ceil(low / nice);
    const ticks = Math.floor(high / nice) - first + 1;
    return Array.from({ length: ticks }, (_, at) => Number(((first + at) * nice).toPrecision(6)));
  }
  const span = Math.log10(high / low);
  const steps = span < 1 ? [1, 1.5, 2, 3, 5, 7] : span < 3 ? [1, 2, 5] : [1];
  const found: number[] = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    found.push(...steps.map((step) => step * 10 ** power).filter((value) => value >= low && value <= high));
  }
  return found;
}

/** Places of names in pixels from the top, none nearer than a line to the next, in their order. */
function apart<T>(
  items: readonly T[],
  place: (item: T) => number,
  room: number,
): { readonly item: T; readonly pixel: number }[] {
  const sorted = items.map((item) => ({ item, pixel: place(item) })).sort((a, b) => a.pixel - b.pixel);
  for (let at = 1; at < sorted.length; at++) {
    sorted[at].pixel = Math.max(sorted[at].pixel, sorted[at - 1].pixel + LINE);
  }
  let below = room;
  for (const each of sorted.reverse()) {
    each.pixel = Math.min(each.pixel, below);
    below = each.pixel - LINE;
  }
  return sorted;
}
