import { printable } from "../../errors.js";
import type { TileMap } from "../../surgery/surgery-report.js";
import { escapeHtml } from "../escape-html.js";
import { count, counted, percent } from "../number-words.js";
import { clip } from "../report-text.js";
import { legend } from "./legend.js";
import { rampRange, rampStep } from "./ramp.js";

/** More cells than this would be finer than a pixel and cost megabytes. */
const MAX_CELLS = 65_536;

/** Maps of tiles side by side, one path a colour, equal neighbours merged: a hundred cells take about a kilobyte. */
export function tileMaps(maps: readonly TileMap[]): string {
  const drawn = maps
    .slice(0, 4)
    .map(tileMap)
    .filter((html) => html !== "");
  return drawn.length === 0 ? "" : `<div class="tile-maps">${drawn.join("")}</div>`;
}

function tileMap(map: TileMap): string {
  const { rows, cols, sparsity } = map;
  if (!(rows > 0 && cols > 0) || rows * cols > MAX_CELLS || sparsity.length !== rows * cols) return "";
  let min = Number.POSITIVE_INFINITY;
  let max = Number.NEGATIVE_INFINITY;
  let sum = 0;
  let cells = 0;
  for (const value of sparsity) {
    if (!Number.isFinite(value)) continue;
    min = Math.min(min, value);
    max = Math.max(max, value);
    sum += value;
    cells++;
  }
  if (cells === 0) return "";
  const [low, high] = rampRange(min, max);
  const paths = new Map<number, string>();
  for (let row = 0; row < rows; row++) {
    for (let col = 0; col < cols; ) {
      const value = sparsity[row * cols + col];
      if (!Number.isFinite(value)) {
        col++;
        continue;
      }
      const step = rampStep(value, low, high);
      let end = col + 1;
      while (
        end < cols &&
        Number.isFinite(sparsity[row * cols + end]) &&
        rampStep(sparsity[row * cols + end], low, high) === step
      )
        end++;
      paths.set(step, `${paths.get(step) ?? ""}M${col} ${row}h${end - col}v1h${col - end}z`);
      col = end;
    }
  }
  const drawing = [...paths]
    .sort(([a], [b]) => a - b)
    .map(([step, path]) => `<path fill="var(--h${step})" d="${path}"/>`)
    .join("");
  const name = escapeHtml(clip(printable(map.name), 90));
  const pooled = rows * cols < map.tile_rows * map.tile_cols;
  const size = `${count(map.tile_rows)} × ${counted(map.tile_cols, "tile")} of ${count(map.block_size)} × ${count(map.block_size)}${pooled ? `, pooled to ${count(rows)} × ${count(cols)} cells` : ""}`;
  const alt = `Tile map of the ${map.which} tensor ${printable(clip(map.name, 90))}: ${size}; cells from ${percent(min)} to ${percent(max)} zeros, mean ${percent(sum / cells)}.`;
  // A cell is at most 28 pixels, the whole at most 400 by 420, whichever binds first.
  const cell = Math.min(28, 400 / cols, 420 / rows);
  return (
    `<div class="tile-map"><p class="panel-title">${map.which === "most pruned" ? "Most pruned" : "Least pruned"}</p>` +
    `<p class="tile-name"><code>${name}</code></p>` +
    `<svg class="tiles" role="img" aria-label="${escapeHtml(alt)}" viewBox="0 0 ${cols} ${rows}" width="${Math.max(8, Math.round(cols * cell))}" shape-rendering="crispEdges" preserveAspectRatio="xMinYMin">${drawing}</svg>` +
    `${legend(low, high, `mean of the cells ${percent(sum / cells)}`)}<p class="tile-size">${size}</p></div>`
  );
}
