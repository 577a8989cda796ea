import { printable } from "../errors.js";
import type { LayerGrid } from "./layer-grid.js";
import { percent } from "./number-words.js";
import { clip } from "./report-text.js";

const BARS = "▁▂▃▄▅▆▇█";

/** Wider lines would wrap in a terminal; deeper models pool neighbouring layers. */
const MAX_COLUMNS = 64;

/** One line a projection: its sparsity along depth as a row of bars, all on one scale. */
export function depthLines(grid: LayerGrid): string[] {
  const perColumn = Math.ceil(grid.layers.length / MAX_COLUMNS);
  const width = Math.max(10, ...grid.projections.map((projection) => Math.min(40, printable(projection).length)));
  const first = `${grid.layers[0]}`;
  const last = `${grid.layers.at(-1)}`;
  const columns = Math.ceil(grid.layers.length / perColumn);
  const ruler = columns > first.length + last.length + 1 ? first.padEnd(columns - last.length) + last : first;
  const lines = [`${"layer".padEnd(width)}  ${ruler}`];
  for (const [position, projection] of grid.projections.entries()) {
    let bars = "";
    for (let start = 0; start < grid.layers.length; start += perColumn) {
      const cells = grid.cells[position].slice(start, start + perColumn);
      const weights = cells.reduce((sum, cell) => sum + (cell?.weights ?? 0), 0);
      const dead = cells.reduce((sum, cell) => sum + (cell?.dead ?? 0), 0);
      bars += weights > 0 ? bar(dead / weights, grid) : " ";
    }
    lines.push(`${clip(printable(projection), 40).padEnd(width)}  ${bars}`);
  }
  lines.push(
    `${BARS[0]} ${percent(grid.min)}  ${BARS.at(-1)} ` +
      `${percent(grid.max)}${perColumn > 1 ? `  a bar is ${perColumn} layers` : ""}`,
  );
  return lines;
}

/** Scale as the pictures have it: differences under two points are not blown up to the whole height. */
function bar(sparsity: number, { min, max }: LayerGrid): string {
  const span = Math.max(max - min, 0.02);
  const low = (max + min) / 2 - span / 2;
  return BARS[Math.min(BARS.length - 1, Math.max(0, Math.floor(((sparsity - low) / span) * BARS.length)))];
}
