import { escapeHtml } from "../escape-html.js";
import type { LayerGrid } from "../layer-grid.js";
import { percent } from "../number-words.js";

const WIDTH = 1000;
const HEIGHT = 190;
/** Over this much at either end the tubes part and meet again. */
const FAN = 150;
const FAN_STEPS = 7;
export const MAX_TUBES = 9;

/**
 * The head of the report: the model as the slime mould left it. One tube a projection from first layer to last; the pale tube is the donor's, the
 * solid one inside it is as wide as the share of the weights that live, so a layer that was pruned hard is seen to narrow.
 */
export function veins(grid: LayerGrid): string {
  const tubes = grid.projections
    .slice(0, MAX_TUBES)
    .map((_, position) => grid.cells[position].map((cell) => cell?.sparsity))
    .filter((cells) => cells.some((sparsity) => sparsity !== undefined));
  if (tubes.length === 0) return "";
  const pitch = HEIGHT / (tubes.length + 0.2);
  const full = pitch * 0.74;
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
  const alt = `${tubes.length} tubes, one a projection, from the first layer to the last; their width is the share of weights that live, between ${percent(1 - grid.max)} and ${percent(1 - grid.min)}.`;
  return `<svg class="veins" role="img" aria-label="${escapeHtml(alt)}" viewBox="0 0 ${WIDTH} ${HEIGHT}" preserveAspectRatio="none"><g class="pale">${pale.join("")}</g><g>${solid.join("")}</g></svg>`;
}

/** A closed path around a tube: it leaves the common stem, widens to `full` times the share alive at each layer, and returns to it. */
function tube(centre: number, full: number, alive: readonly number[]): string {
  const middle = HEIGHT / 2;
  const fan = Array.from({ length: FAN_STEPS }, (_, i) => {
    const ease = smootherstep(i / FAN_STEPS);
    return {
      at: (i / FAN_STEPS) * FAN,
      y: middle + centre * (0.13 + 0.87 * ease),
      wide: full * (0.11 + 0.89 * ease ** 1.5),
    };
  });
  const first = alive[0];
  const last = alive[alive.length - 1];
  const layers =
    alive.length === 1
      ? [FAN, WIDTH / 2, WIDTH - FAN].map((x) => ({ x, y: middle + centre, half: (full * first) / 2 }))
      : alive.map((share, i) => ({
          x: FAN + ((WIDTH - 2 * FAN) * i) / (alive.length - 1),
          y: middle + centre,
          half: (full * share) / 2,
        }));
  const points = [
    ...fan.map(({ at, y, wide }) => ({ x: at, y, half: (wide * first) / 2 })),
    ...layers,
    ...fan.map(({ at, y, wide }) => ({ x: WIDTH - at, y, half: (wide * last) / 2 })).reverse(),
  ];
  const upper = points.map(({ x, y, half }) => ({ x, y: y - half }));
  const lower = points.map(({ x, y, half }) => ({ x, y: y + half })).reverse();
  return `<path d="M${pair(upper[0])}${smooth(upper)}L${pair(lower[0])}${smooth(lower)}Z"/>`;
}

function smootherstep(t: number): number {
  return t * t * t * (t * (6 * t - 15) + 10);
}

interface Point {
  readonly x: number;
  readonly y: number;
}

/** Bézier segments with horizontal tangents scaled as in a monotone cubic: no overshoot, so no tube is drawn wider than its data. */
function smooth(points: readonly Point[]): string {
  let path = "";
  for (let i = 1; i < points.length; i++) {
    const [a, b] = [points[i - 1], points[i]];
    const third = (b.x - a.x) / 3;
    const slopeA = slope(points, i - 1);
    const slopeB = slope(points, i);
    path += `C${pair({ x: a.x + third, y: a.y + third * slopeA })} ${pair({ x: b.x - third, y: b.y - third * slopeB })} ${pair(b)}`;
  }
  return path;
}

/** source: Steffen 1990, "A simple method for monotonic interpolation in one dimension", Astronomy & Astrophysics 239 */
function slope(points: readonly Point[], i: number): number {
  if (i === 0 || i === points.length - 1) return 0;
  const before = (points[i].y - points[i - 1].y) / (points[i].x - points[i - 1].x);
  const after = (points[i + 1].y - points[i].y) / (points[i + 1].x - points[i].x);
  if (!(before * after > 0)) return 0;
  return Math.sign(before) * Math.min(Math.abs(before), Math.abs(after), Math.abs(before + after) / 2);
}

function pair({ x, y }: Point): string {
  return `${Number(x.toFixed(1))} ${Number(y.toFixed(2))}`;
}
