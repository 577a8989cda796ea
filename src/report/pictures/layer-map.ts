import * as Plot from "@observablehq/plot";
import { type LayerGrid, shortProjection } from "../layer-grid.js";
import { percent } from "../number-words.js";
import { legend } from "./legend.js";
import { rampRange, rampStep } from "./ramp.js";
import { svgPlot } from "./svg-plot.js";

/** Past this many cells the tooltips go: the table under the picture has the numbers. */
const MAX_TITLES = 3000;

/** Heat map: layers across, projections down, colour for sparsity. Empty where no target has a layer. */
export function layerMap(grid: LayerGrid): string {
  const cells = grid.projections.flatMap((projection, p) =>
    grid.layers.flatMap((layer, l) => {
      const cell = grid.cells[p][l];
      return cell?.sparsity === undefined
        ? []
        : [{ projection, layer, sparsity: cell.sparsity, tensors: cell.tensors }];
    }),
  );
  if (cells.length === 0) return "";
  const [low, high] = rampRange(grid.min, grid.max);
  const step = (sparsity: number) => rampStep(sparsity, low, high);
  const labels = labelsOf(grid.projections);
  const left = 14 + 7 * Math.max(...[...labels.values()].map((label) => label.length));
  const cellWidth = Math.min(84, Math.max(11, (840 - left) / grid.layers.length));
  const width = Math.round(left + cellWidth * grid.layers.length + 8);
  const every = Math.ceil(22 / cellWidth);
  const roomy = cellWidth >= 52;
  const most = cells.reduce((a, b) => (b.sparsity > a.sparsity ? b : a));
  const least = cells.reduce((a, b) => (b.sparsity < a.sparsity ? b : a));
  const svg = svgPlot(
    {
      width,
      height: 30 * grid.projections.length + 44,
      marginLeft: left,
      marginRight: 8,
      marginTop: 6,
      marginBottom: 38,
      x: {
        type: "band",
        domain: [...grid.layers],
        ticks: grid.layers.filter((_, i) => i % every === 0),
        tickSize: 0,
        label: "layer",
        labelAnchor: "center",
        labelArrow: "none",
        padding: 0,
      },
      y: {
        type: "band",
        domain: [...grid.projections],
        tickSize: 0,
        label: null,
        tickFormat: (p) => labels.get(p) ?? "",
      },
      marks: [
        Plot.cell(cells, {
          x: "layer",
          y: "projection",
          fill: { value: (d: (typeof cells)[number]) => `var(--h${step(d.sparsity)})`, scale: null },
          inset: cellWidth > 18 ? 1 : 0.5,
          rx: 2,
          ...(cells.length <= MAX_TITLES
            ? {
                title: (d: (typeof cells)[number]) =>
                  `layer ${d.layer}, ${d.projection}: ` +
                  `${percent(d.sparsity)}${d.tensors > 1 ? ` over ${d.tensors} tensors` : ""}`,
              }
            : {}),
        }),
        ...(roomy
          ? [
              Plot.text(cells, {
                x: "layer",
                y: "projection",
                text: (d: (typeof cells)[number]) => percent(d.sparsity),
                fill: {
                  value: (d: (typeof cells)[number]) => `var(--t${step(d.sparsity)})`,
                  scale: null,
                },
              }),
            ]
          : []),
      ],
    },
    {
      alt:
        `Heat map of sparsity, ${grid.layers.length} layers by ${grid.projections.length} projections. Most: ` +
        `${percent(most.sparsity)} in layer ${most.layer}, ${most.projection}. Least: ${percent(least.sparsity)} in ` +
        `layer ${least.layer}, ${least.projection}.`,
      ...(width > 600 ? { minWidth: Math.min(width, 720) } : {}),
    },
  );
  return `${svg}${legend(low, high, "zeros of the weights")}`;
}

/** Short labels, unless two projections would share one. */
export function labelsOf(projections: readonly string[]): Map<string, string> {
  const short = projections.map(shortProjection);
  return new Map(
    projections.map((projection, i) => {
      const twin = short.findIndex((label, k) => k !== i && label === short[i]) >= 0;
      return [projection, twin ? `${short[i]} (${i + 1})` : short[i]];
    }),
  );
}
