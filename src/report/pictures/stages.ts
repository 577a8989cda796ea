import * as Plot from "@observablehq/plot";
import type { ActivationSection } from "../../record/surgery-report.js";
import { meanErrors } from "../activation-words.js";
import { significant } from "../number-words.js";
import { QUIET_AXIS, svgPlot } from "./svg-plot.js";

/** More projections than this are no longer told apart by their names at the end of a line. */
const MAX_LINES = 12;
const HEIGHT = 260;
const LINE_HEIGHT = 13;

/**
 * How the error of each projection falls from stage to stage, logarithmic. Empty where fewer than two stages have an
 * error.
 */
export function stageErrors(activation: ActivationSection | undefined): string {
  if (activation === undefined) return "";
  const { stages, projections } = meanErrors(activation);
  const points = projections
    .slice(0, MAX_LINES)
    .flatMap(({ projection, errors }) =>
      errors.flatMap((error, at) =>
        error !== undefined && error > 0 ? [{ projection: nameOf(projection), stage: stages[at], error }] : [],
      ),
    );
  if (stages.length < 2 || points.length === 0) return "";
  const last = stages[stages.length - 1];
  const ends = points.filter(({ stage }) => stage === last);
  const all = points.map(({ error }) => error);
  const names = ends.map(({ projection, error }) => `${projection} ${significant(error, 3)}`);
  return svgPlot(
    {
      width: 640,
      height: HEIGHT,
      marginLeft: 56,
      marginRight: 90,
      marginTop: 16,
      marginBottom: 32,
      x: { type: "point", domain: stages, label: null, padding: 0.25, ...QUIET_AXIS },
      y: { type: "log", label: null, tickFormat: (value: number) => significant(value, 2), ticks: 4, tickSize: 0 },
      marks: [
        Plot.gridY({ stroke: "var(--rule)", strokeOpacity: 1, ticks: 4 }),
        Plot.lineY(points, { x: "stage", y: "error", z: "projection", stroke: "var(--killed)", strokeWidth: 1.5 }),
        Plot.dot(points, {
          x: "stage",
          y: "error",
          r: 3,
          fill: "var(--killed)",
          stroke: "var(--paper)",
          title: (d: (typeof points)[number]) => `${d.projection} after ${d.stage}: ${significant(d.error, 3)}`,
        }),
        Plot.text(apart(ends, Math.min(...all), Math.max(...all)), {
          x: "stage",
          y: "place",
          text: "projection",
          dx: 10,
          textAnchor: "start",
          fill: "var(--ink)",
        }),
      ],
    },
    {
      alt: `Relative error of each projection after ${stages.join(", ")}; in the end ${names.join(", ")}.`,
      minWidth: 480,
    },
  );
}

/** Names whose lines end together are moved up until each can be read: `place` is where on the axis a name stands. */
function apart<T extends { readonly error: number }>(ends: readonly T[], min: number, max: number) {
  const ratio = (max / min) ** (LINE_HEIGHT / (HEIGHT - 48));
  let place = 0;
  return [...ends]
    .sort((a, b) => a.error - b.error)
    .map((end) => {
      place = Math.max(end.error, place * ratio);
      return { ...end, place };
    });
}

/** `self_attn.q_proj` is long beside a line; `q` is how the field calls it. */
function nameOf(projection: string): string {
  return (projection.split(".").pop() ?? projection).replace(/_proj$/, "");
}
