import { escapeHtml } from "../escape-html.js";
import type { LayerGrid } from "../layer-grid.js";
import { percent } from "../number-words.js";

const WIDTH = 1000;
const HEIGHT = 190;
/** Over this much at either end the tubes part and meet again. */
const FAN = 150;
const FAN_STEPS = 8;
/** Points along the layers, so that the sway of a model of few layers is smooth too. */
const MIN_POINTS = 22;
const SWAY = 9;
export const MAX_TUBES = 9;

/**
 * The head of the report: the model as the slime mould left it. One tube a projection from first layer to last; the
 * pale tube is the donor's, the solid one inside it is as wide as the share of the weights that live, so a layer that
 * was pruned hard is seen to narrow.
 */
export function veins(grid: LayerGrid): string {
  const tubes = grid.projections
    .slice(0, MAX_TUBES)
    .map((_, position) => grid.cells[position].map((cell) => cell?.sparsity))
    .filter((cells) => cells.some((sparsity) => sparsity !== undefined));
  if (tubes.length === 0) return "";
  const pitch = (HEIGHT - 2 * SWAY) / (tubes.length + 0.1);
  const full = pitch * 0.66;
  const pale: string[] = [];
  const solid: string[] = [];
  for (const [slot, sparsities] of tubes.entries()) {
    const centre = (slot - (tubes.length - 1) / 2) * pitch;
    const known = sparsities.filter((value) => value !== undefined);
    const mean = known.reduce((a, b) => a + b, 0) / known.length;
    const alive = sparsities.map((sparsity) => 1 - (sparsity ?? mean));
    pale.push(
      tube(
        centre,
        full,
        alive.map(() => 1),
      ),
    );
    solid.push(tube(centre, full, alive));
  }
  const alt =
    `${tubes.length} tubes, one a projection, from the first layer to the last; their width is the share of weights ` +
    `that live, between ${percent(1 - grid.max)} and ${percent(1 - grid.min)}.`;
  return (
    `<svg class="veins" role="img" aria-label="${escapeHtml(alt)}" viewBox="0 0 ${WIDTH} ${HEIGHT}" ` +
    `preserveAspectRatio="none"><g class="pale">${pale.join("")}</g><g>${solid.join("")}</g></svg>`
  );
}

/**
 * A closed path around a tube: it leaves the common stem, widens to `full` times the share alive at each layer, and
 * returns to it.
 */
function tube(centre: number, full: number, alive: readonly number[]): string {
  const spine: { x: number; y: number; half: number }[] = [];
  const add = (x: number, share: number) => {
    // The fan is an ease in and out; the sway is ornament and the same for all, the width is the data.
    const ease = smootherstep(Math.min(1, x / FAN, (WIDTH - x) / FAN));
    const sway =
      SWAY * Math.sin((x / WIDTH) * 2.6 * Math.PI + 0.6 + centre / HEIGHT) * Math.min(1, x / 200, (WIDTH - x) / 200);
    spine.push({
      x,
      y: HEIGHT / 2 + centre * (0.13 + 0.87 * ease) + sway,
      half: (full * share * (0.11 + 0.89 * ease ** 1.5)) / 2,
    });
  };
  for (let i = 0; i < FAN_STEPS; i++) add((i / FAN_STEPS) * FAN, alive[0]);
  const spans = Math.max(1, alive.length - 1);
  const between = Math.max(1, Math.ceil(MIN_POINTS / spans));
  for (let i = 0; i < spans; i++) {
    const [from, to] = [alive[i], alive[i + 1] ?? alive[i]];
    for (let k = 0; k < between; k++) {
      const t = k / between;
      add(FAN + ((WIDTH - 2 * FAN) * (i + t)) / spans, from + (to - from) * t * t * (3 - 2 * t));
    }
  }
  const last = alive[alive.length - 1];
  for (let i = FAN_STEPS; i >= 0; i--) add(WIDTH - (i / FAN_STEPS) * FAN, last);
  const upper = spine.map(({ x, y, half }) => ({ x, y: y - half }));
  const lower = spine.map(({ x, y, half }) => ({ x, y: y + half })).reverse();
  return `<path d="M${pair(upper[0])}${smooth(upper)}L${pair(lower[0])}${smooth(lower)}Z"/>`;
}

function smootherstep(t: number): number {
  return t * t * t * (t * (6 * t - 15) + 10);
}

interface Point {
  readonly x: number;
  readonly y: number;
}

/**
 * Quadratic segments through the midpoints of the points, which lie close enough: half the size of cubic ones, and they
 * cannot overshoot.
 */
function smooth(points: readonly Point[]): string {
  let path = "";
  for (let i = 1; i < points.length - 1; i++) {
    const next = points[i + 1];
    const end = i === points.length - 2 ? next : { x: (points[i].x + next.x) / 2, y: (points[i].y + next.y) / 2 };
    path += `Q${pair(points[i])} ${pair(end)}`;
  }
  return path;
}

function pair({ x, y }: Point): string {
  return `${Number(x.toFixed(1))} ${Number(y.toFixed(1))}`;
}
