import type { ReportInput } from "../record/report-input.js";
import { isUniform, type LayerGrid } from "./layer-grid.js";
import { count, counted, percent, percentRange, points, share } from "./number-words.js";
import type { Remarks } from "./remarks.js";
import {
  type Block,
  code,
  type Lines,
  type Piece,
  paragraph,
  type Section,
  say,
  strong,
  type Table,
  type Text,
} from "./report-text.js";
import { depthLines } from "./sparkline.js";
import { limited, table } from "./table.js";

/** Where along depth and projections the zeros lie, and what stands out. */
export function layersSection(report: ReportInput, grid: LayerGrid, remarks: Remarks): Section {
  const blocks: Block[] = [{ kind: "list", items: remarkTexts(remarks).map((text) => ({ text })) }];
  if (isUniform(grid)) {
    const everywhere = say`Every projection of every layer has ${percent(grid.max)} zeros: where zeros lie says nothing
      here, what they cost does (damage by layer).`;
    blocks.push(paragraph(everywhere));
  } else if (grid.layers.length > 0) {
    blocks.push({
      kind: "picture",
      picture: "layer-map",
      title: "Layer by projection",
      caption: say`Zeros over weights of each projection in each
        layer${
          grid.cells.some((line) => line.some((c) => (c?.tensors ?? 0) > 1)) ? ", the experts of a layer pooled" : ""
        }.
        Darker is sparser; in dark mode, brighter.`,
    });
    const lines: Lines = {
      kind: "lines",
      label: "Sparsity along depth",
      lines: depthLines(grid),
      markdownOnly: true,
    };
    blocks.push(lines);
    blocks.push({
      kind: "picture",
      picture: "depth",
      title: "Along depth, by projection",
      caption: say`The same numbers as lines, all on one scale, with the median of each projection as a thin rule;
        marked are layers that stand out.`,
    });
    blocks.push(gridTable(grid));
  }
  const rest: Piece[] = [];
  if (grid.leftOutLayers > 0) rest.push(`${counted(grid.leftOutLayers, "more layer")}`);
  if (grid.leftOutProjections > 0)
    rest.push(`${rest.length > 0 ? " and " : ""}${counted(grid.leftOutProjections, "more projection")}`);
  if (rest.length > 0) blocks.push(paragraph([...rest, " are not drawn; they stand in surgery.json."]));
  blocks.push(layerTable(report));
  return { id: "layers", title: "Layers", blocks };
}

/** The remarks of `remarksOf` as sentences. */
export function remarkTexts(remarks: Remarks): Text[] {
  const { layerCount, medianLayer, standOut, band, mostPruned, leastPruned } = remarks;
  const texts: Text[] = [];
  if (layerCount === 0) {
    texts.push(say`No target tensor has a layer in its name, so there is nothing to say about depth.`);
  } else if (layerCount === 1 && band !== undefined) {
    texts.push(say`There is one layer, ${band.fromLayer}: ${percent(medianLayer)} of its target weights are zero.`);
  } else if (standOut.length === 0 && band !== undefined) {
    texts.push(
      say`${strong("No layer stands out.")} In each of the ${count(layerCount)} layers
        ${percentRange(band.low, band.high)} of the target weights are zero (median ${percent(medianLayer)}), in their
        tensors ${percentRange(band.tensorLow, band.tensorHigh)}.`,
    );
  }
  for (const { layer, sparsity, difference, projections } of standOut.slice(0, 6)) {
    const where = difference > 0 ? "above" : "below";
    texts.push([
      ...say`${strong(`Layer ${layer} stands out`)}: ${percent(sparsity)} of its target weights are zero,
        ${points(difference)} points ${where} the median layer (${percent(medianLayer)})`,
      ...(projections.length > 0 ? ["; "] : []),
      ...projections.flatMap(({ projection, sparsity: of }, i) => [
        i === 0 ? "" : ", ",
        code(projection),
        ` ${percent(of)}`,
      ]),
      ".",
    ]);
  }
  if (standOut.length > 6) {
    texts.push(say`${counted(standOut.length - 6, "more layer")} stand out; the table of layers has them.`);
  }
  if (standOut.length > 0 && band !== undefined) {
    const which = band.contiguous
      ? band.fromLayer === band.toLayer
        ? `Layer ${band.fromLayer}`
        : `Layers ${band.fromLayer} to ${band.toLayer}`
      : `The other ${counted(band.layerCount, "layer")}`;
    texts.push(
      say`${which} settle in a band: ${percentRange(band.low, band.high)} zeros by layer,
        ${percentRange(band.tensorLow, band.tensorHigh)} by tensor.`,
    );
  }
  if (mostPruned !== undefined && leastPruned !== undefined && mostPruned !== leastPruned) {
    texts.push(
      say`The sparsest tensor is ${code(mostPruned.name)} with ${percent(mostPruned.sparsity)} zeros, the least sparse
        ${code(leastPruned.name)} with ${percent(leastPruned.sparsity)}.`,
    );
  }
  if (remarks.tensorsWithoutLayer > 0 && layerCount > 0) {
    texts.push(
      say`${counted(remarks.tensorsWithoutLayer, "target tensor")} without a layer in the name: in the totals, not in
        the layers.`,
    );
  }
  return texts;
}

function gridTable(grid: LayerGrid): Table {
  return {
    ...table(
      "Sparsity by layer and projection",
      ["Layer", ...grid.projections],
      grid.layers.map((layer, column) => [
        say`${layer}`,
        ...grid.cells.map((line) => say`${percent(line[column]?.sparsity)}`),
      ]),
      grid.projections.map((_, i) => i + 1),
    ),
    folded: true,
  };
}

function layerTable(report: ReportInput): Table {
  const inLayers = report.per_layer.filter(({ layer }) => layer >= 0);
  const rows = inLayers.map((row): Text[] => [
    say`${row.layer}`,
    say`${count(row.tensors)}`,
    say`${count(row.weights)}`,
    say`${count(row.killed)}`,
    say`${percent(share(row.killed, row.weights))}`,
    say`${percent(row.sparsity)}`,
    say`${percent(row.min)}`,
    say`${percent(row.max)}`,
  ]);
  return limited(
    {
      ...table(
        "Layers in numbers",
        ["Layer", "Tensors", "Target weights", "Killed", "Killed of its target weights", "Zero now", "Least", "Most"],
        rows,
        [0, 1, 2, 3, 4, 5, 6, 7],
      ),
      folded: true,
    },
    say`surgery.json has the rest`,
  );
}
