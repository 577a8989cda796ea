import { printable } from "../../errors.js";
import type { TileMap } from "../../record/surgery-report.js";
import { escapeHtml } from "../escape-html.js";
import { count, counted, percent, percentRange } from "../number-words.js";
import { clip } from "../report-text.js";
import { legend } from "./legend.js";
import { rampRange, rampStep } from "./ramp.js";

/** More cells than this would be finer than a pixel and cost megabytes. */
const MAX_CELLS = 65_536;

/** Maps of this many cells or fewer have room for the numbers. */
const MAX_NUMBERED = 20;

/**
 * Maps of tiles side by side on one scale, so that they can be compared; one path a colour, equal neighbours merged: a
 * hundred cells take about a kilobyte.
 */
export function tileMaps(maps: readonly TileMap[]): string {
  const drawable = maps.slice(0, 4).filter(isDrawable);
  const values = drawable.flatMap(({ sparsity }) => sparsity.filter((value) => Number.isFinite(value)));
  if (values.length === 0) return "";
  const [low, high] = rampRange(
    values.reduce((a, b) => Math.min(a, b)),
    values.reduce((a, b) => Math.max(a, b)),
  );
  const drawn = drawable.map((map) => tileMap(map, low, high)).join("");
  return `<div class="tile-maps">${drawn}</div>${legend(low, high, "zeros of a tile")}`;
}

function isDrawable({ rows, cols, sparsity }: TileMap): boolean {
  return rows > 0 && cols > 0 && rows * cols <= MAX_CELLS && sparsity.length === rows * cols;
}

function tileMap(map: TileMap, low: number, high: number): string {
  const { rows, cols, sparsity } = map;
  const known = sparsity.filter((value) => Number.isFinite(value));
  if (known.length === 0) return "";
  const mean = known.reduce((a, b) => a + b, 0) / known.length;
  const range = percentRange(
    known.reduce((a, b) => Math.min(a, b)),
    known.reduce((a, b) => Math.max(a, b)),
  );
  const step = (row: number, col: number) => {
    const value = sparsity[row * cols + col];
    return Number.isFinite(value) ? rampStep(value, low, high) : undefined;
  };
  const paths = new Map<number, string>();
  for (let row = 0; row < rows; row++) {
    for (let col = 0; col < cols; ) {
      const colour = step(row, col);
      let end = col + 1;
      while (end < cols && step(row, end) === colour) end++;
      if (colour !== undefined) {
        paths.set(colour, `${paths.get(colour) ?? ""}M${col} ${row}h${end - col}v1h${col - end}z`);
      }
      col = end;
    }
  }
  const drawing = [...paths]
    .sort(([a], [b]) => a - b)
    .map(([colour, path]) => `<path fill="var(--h${colour})" d="${path}"/>`)
    .join("");
  const name = clip(printable(map.name), 90);
  const pooled = rows * cols < map.tile_rows * map.tile_cols;
  const size =
    `${count(map.tile_rows)} × ${counted(map.tile_cols, "tile")} of ${count(map.block_size)} × ` +
    `${count(map.block_size)}${pooled ? `, pooled to ${count(rows)} × ${count(cols)} cells` : ""}`;
  const words = rows * cols === 1 ? `${percent(mean)} zeros` : `cells ${range} zeros, mean ${percent(mean)}`;
  // A cell is at most 28 pixels (76 where it holds its number), the whole at most 400 by 420, whichever binds first.
  const few = rows * cols <= MAX_NUMBERED && cols <= 5;
  const cell = Math.min(few ? 76 : 28, 400 / cols, 420 / rows);
  const numbers = few
    ? sparsity.map((value, i) => number(value, i % cols, Math.floor(i / cols), low, high)).join("")
    : "";
  return (
    `<div class="tile-map"><p class="panel-title">${map.which === "most pruned" ? "Most pruned" : "Least pruned"}</p>` +
    `<p class="tile-name"><code>${escapeHtml(name)}</code></p>` +
    `<svg class="tiles" role="img" ` +
    `aria-label="${escapeHtml(`Tile map of the ${map.which} tensor ${name}: ${size}; ${words}.`)}" viewBox="0 0 ` +
    `${cols} ${rows}" width="${Math.max(8, Math.round(cols * cell))}" shape-rendering="crispEdges" ` +
    `preserveAspectRatio="xMinYMin">${drawing}${numbers}</svg>` +
    `<p class="tile-size">${size}<br>${words}</p></div>`
  );
}

function number(value: number, col: number, row: number, low: number, high: number): string {
  if (!Number.isFinite(value)) return "";
  return (
    `<text x="${col + 0.5}" y="${row + 0.56}" font-size=".17" text-anchor="middle" ` +
    `fill="var(--t${rampStep(value, low, high)})">${percent(value)}</text>`
  );
}
