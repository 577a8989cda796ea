import { flowBlocks } from "./flow-words.js";
import { assessment, notInThisReport } from "./honest-words.js";
import { type LayerGrid, layerGrid, sortProjections, zerosOf } from "./layer-grid.js";
import {
  byteSize,
  count,
  counted,
  duration,
  fixed,
  percent,
  percentRange,
  points,
  share,
  significant,
  timestamp,
} from "./number-words.js";
import { qualitySection } from "./quality-section.js";
import { type Remarks, remarksOf } from "./remarks.js";
import type { ReportInput } from "./report-input.js";
import {
  type Block,
  code,
  command,
  foreign,
  type Lines,
  type Piece,
  paragraph,
  type ReportDocument,
  type Section,
  say,
  shellQuote,
  strong,
  type Table,
  type Text,
} from "./report-text.js";
import { depthLines } from "./sparkline.js";
import { worthSection } from "./worth-section.js";

/** Tables of many tensors show this many rows whole; longer ones show both ends. */
const MAX_ROWS = 400;
const ENDS = 25;

/** The whole report as data, in the order of the seed's report and with what it said was missing. */
export function reportDocument(
  report: ReportInput,
  grid: LayerGrid = layerGrid(report.per_tensor),
  remarks: Remarks = remarksOf(report, grid),
): ReportDocument {
  return {
    donorName: report.donor.name,
    lede: ledeOf(report),
    sections: [
      inputs(report),
      aggregate(report),
      projections(report),
      layers(report, grid, remarks),
      flow(report),
      tiles(report),
      integrity(report),
      qualitySection(report),
      worthSection(report),
      time(report),
      tensors(report),
      files(report),
      { id: "missing", title: "What is not in this report", blocks: [notInThisReport(report)] },
      { id: "assessment", title: "Honest assessment", blocks: [assessment(report)] },
    ],
  };
}

/** The law of the report: no kill rate without its denominator, and both denominators in the first sentence. */
export function ledeOf(report: ReportInput): Text {
  const { killed, target_weights, model_weights } = report.totals;
  return say`Surgery set ${strong(count(killed))} weights to zero: ${strong(percent(share(killed, target_weights)))} of the ${count(target_weights)} target projection weights, ${strong(percent(share(killed, model_weights)))} of all ${count(model_weights)} weights of the model.`;
}

function inputs(report: ReportInput): Section {
  const { donor, totals, params } = report;
  const settings = flatten(params);
  const rows: Text[][] = [
    [say`Donor`, say`${code(donor.path)}`],
    [
      say`Donor size`,
      say`${byteSize(donor.total_size)} (${count(donor.total_size)} bytes of tensors), ${counted(donor.tensor_count, "tensor")} in ${counted(donor.shard_count, "shard")}`,
    ],
    [say`Output`, say`${code(report.output.path)}`],
    [
      say`Output size`,
      say`${byteSize(donor.total_size)}: headers, offsets and index are the donor's, so every byte count is too`,
    ],
    [say`Flow`, say`${foreign(report.flow)} ${foreign(report.flow_version)}`],
    [say`Parameters`, settings.flatMap(([key, value], i) => [i === 0 ? "" : ", ", code(`${key}=${value}`)])],
    [
      say`Operated on`,
      say`${counted(totals.tensors, "target tensor")}, ${count(totals.target_weights)} of ${count(totals.model_weights)} weights (${percent(share(totals.target_weights, totals.model_weights))} of the model)`,
    ],
    [
      say`Carried over`,
      say`${counted(donor.tensor_count - totals.tensors, "tensor")} byte for byte, ${counted(report.side_files.length, "side file")}`,
    ],
    [say`Started, ended`, say`${foreign(timestamp(report.started_at))}, ${foreign(timestamp(report.ended_at))}`],
    ...(report.resumed > 0
      ? [[say`Resumed`, say`${counted(report.resumed, "time")}; the wall clock counts the time at work`]]
      : []),
    [say`Written by`, say`physarium ${foreign(report.physarium_version)}`],
  ];
  return {
    id: "inputs",
    title: "Inputs and outputs",
    blocks: [
      paragraph(
        say`The donor was read and never written. The output is a model folder of its own; its ledger, this report and the run log lie in its folder ${code("physarium/")}, which loaders ignore.`,
      ),
      table("Inputs and outputs", ["Item", "Value"], rows),
    ],
  };
}

/** Every parameter by its name, those within another as `activation.seed`; what is not in force is left out. */
function flatten(params: object, prefix = ""): [name: string, value: string][] {
  return Object.entries(params).flatMap(([key, value]): [string, string][] => {
    if (value === undefined || value === null) return [];
    return typeof value === "object" ? flatten(value, `${prefix}${key}.`) : [[`${prefix}${key}`, String(value)]];
  });
}

function aggregate(report: ReportInput): Section {
  const { totals } = report;
  const zeros = zerosOf(report.per_tensor);
  const revived = totals.killed + totals.already_zero - zeros;
  const rows: Text[][] = [
    [say`Model weights, all tensors`, say`${count(totals.model_weights)}`],
    [say`Target projection weights`, say`${count(totals.target_weights)}`],
    [say`Already zero in the targets`, say`${count(totals.already_zero)}`],
    [say`Killed: non-zero before, zero now`, say`${count(totals.killed)}`],
    ...(revived > 0 ? [[say`Revived: zero before, alive now`, say`${count(revived)}`]] : []),
    [say`Killed, of the target projection weights`, say`${percent(share(totals.killed, totals.target_weights))}`],
    [say`Killed, of the full model`, say`${percent(share(totals.killed, totals.model_weights))}`],
    [say`Zero now, of the target projection weights`, say`${percent(share(zeros, totals.target_weights))}`],
    [say`Target tensors`, say`${count(totals.tensors)}`],
    [say`Least sparse tensor`, say`${percent(totals.min_sparsity)}`],
    [say`Most sparse tensor`, say`${percent(totals.max_sparsity)}`],
    [say`Mean over tensors`, say`${percent(totals.mean_sparsity)}`],
    [say`Failed tensors`, say`${count(totals.failed_tensors)}`],
  ];
  return {
    id: "aggregate",
    title: "Aggregate sparsity",
    blocks: [
      paragraph(
        say`Two denominators, and a rate means nothing without one: the projections that surgery may touch, and the whole model with its embeddings, norms and head, which it does not. The sparsity of a tensor is its zeros over its weights, those that were zero before included.`,
      ),
      table("Aggregate sparsity", ["Metric", "Value"], rows, [1]),
      {
        kind: "picture",
        picture: "distribution",
        title: "How sparse each tensor became",
        caption: say`Each tick is a target tensor, by projection; above, their number at each sparsity.`,
      },
    ],
  };
}

function projections(report: ReportInput): Section {
  const byName = new Map(report.per_projection.map((row) => [row.projection, row]));
  const sorted = sortProjections([...byName.keys()]).flatMap((projection) => byName.get(projection) ?? []);
  const rows = sorted.map((row): Text[] => [
    say`${code(row.projection)}`,
    say`${count(row.tensors)}`,
    say`${percent(row.mean)}`,
    say`${percent(row.min)}`,
    say`${percent(row.max)}`,
    say`${count(row.weights)}`,
    say`${count(row.killed)}`,
    say`${percent(share(row.killed, row.weights))}`,
  ]);
  return {
    id: "projections",
    title: "Sparsity by projection",
    blocks: [
      paragraph(
        say`Mean, least and most are over the tensors of a projection; the last column is what was killed over all weights of that projection.`,
      ),
      limited(
        table(
          "Sparsity by projection",
          ["Projection", "Tensors", "Mean", "Least", "Most", "Weights", "Killed", "Killed of its weights"],
          rows,
          [1, 2, 3, 4, 5, 6, 7],
        ),
        say`surgery.json has the rest`,
      ),
    ],
  };
}

function layers(report: ReportInput, grid: LayerGrid, remarks: Remarks): Section {
  const blocks: Block[] = [{ kind: "list", items: remarkTexts(remarks).map((text) => ({ text })) }];
  if (grid.layers.length > 0) {
    blocks.push({
      kind: "picture",
      picture: "layer-map",
      title: "Layer by projection",
      caption: say`Zeros over weights of each projection in each layer${grid.cells.some((line) => line.some((c) => (c?.tensors ?? 0) > 1)) ? ", the experts of a layer pooled" : ""}. Darker is sparser; in dark mode, brighter.`,
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
      caption: say`The same numbers as lines, all on one scale, with the median of each projection as a thin rule; marked are layers that stand out.`,
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
      say`${strong("No layer stands out.")} In each of the ${count(layerCount)} layers ${percentRange(band.low, band.high)} of the target weights are zero (median ${percent(medianLayer)}), in their tensors ${percentRange(band.tensorLow, band.tensorHigh)}.`,
    );
  }
  for (const { layer, sparsity, difference, projections } of standOut.slice(0, 6)) {
    const where = difference > 0 ? "above" : "below";
    texts.push([
      ...say`${strong(`Layer ${layer} stands out`)}: ${percent(sparsity)} of its target weights are zero, ${points(difference)} points ${where} the median layer (${percent(medianLayer)})`,
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
      say`${which} settle in a band: ${percentRange(band.low, band.high)} zeros by layer, ${percentRange(band.tensorLow, band.tensorHigh)} by tensor.`,
    );
  }
  if (mostPruned !== undefined && leastPruned !== undefined && mostPruned !== leastPruned) {
    texts.push(
      say`The sparsest tensor is ${code(mostPruned.name)} with ${percent(mostPruned.sparsity)} zeros, the least sparse ${code(leastPruned.name)} with ${percent(leastPruned.sparsity)}.`,
    );
  }
  if (remarks.tensorsWithoutLayer > 0 && layerCount > 0) {
    texts.push(
      say`${counted(remarks.tensorsWithoutLayer, "target tensor")} without a layer in the name: in the totals, not in the layers.`,
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

function flow(report: ReportInput): Section {
  const blocks = flowBlocks(report);
  const histogram = report.figures?.drive_histogram;
  // Under v2 no cut in magnitudes decides.
  if (histogram != null && histogram.sampled_weights > 0 && report.activation === undefined) {
    const starved = starvedShare(histogram);
    blocks.push({
      kind: "picture",
      picture: "drives",
      title: "Drives and the cut",
      caption: say`Drives of ${count(histogram.sampled_weights)} weights in ${counted(histogram.sampled_tiles, "sampled tile")}. Left of the cut at ${significant(histogram.threshold)} tubes starve${starved === undefined ? [] : say`: about ${percent(starved, 1)} of these sampled weights`}.`,
    });
    blocks.push({
      ...table(
        "Drives in numbers",
        ["Drive from", "to", "Weights"],
        histogram.counts.map((n, i) => [
          say`${significant(histogram.bin_edges[i])}`,
          say`${i === histogram.counts.length - 1 ? "and above" : significant(histogram.bin_edges[i + 1])}`,
          say`${count(n)}`,
        ]),
        [0, 1, 2],
      ),
      folded: true,
      htmlOnly: true,
    });
  }
  return { id: "flow", title: "The flow", blocks };
}

/** Share of the sampled weights below the threshold; the bin it falls into is taken in proportion. */
export function starvedShare(histogram: {
  bin_edges: readonly number[];
  counts: readonly number[];
  threshold: number;
}): number | undefined {
  const { bin_edges: edges, counts, threshold } = histogram;
  let below = 0;
  let all = 0;
  for (const [i, n] of counts.entries()) {
    all += n;
    const width = edges[i + 1] - edges[i];
    const part = width > 0 ? (threshold - edges[i]) / width : threshold > edges[i] ? 1 : 0;
    below += n * Math.min(1, Math.max(0, part));
  }
  return share(below, all);
}

function tiles(report: ReportInput): Section {
  const { coverage } = report;
  const maps = report.figures?.tile_maps ?? [];
  const blocks: Block[] = [
    paragraph(
      say`Surgery saw ${count(coverage.weights_processed)} of ${count(coverage.weights_target)} target weights in ${counted(coverage.tiles, "tile")}: a coverage of ${strong(percent(coverage.fraction))} of the target weights. Tiles do not overlap and are clipped at the edges of a matrix, so each target weight is seen once.`,
    ),
  ];
  if (maps.length > 0) {
    blocks.push({
      kind: "picture",
      picture: "tiles",
      title: "Tiles of the most and least pruned tensor",
      caption: say`Each cell is a tile, or several where a tensor has more tiles than the map has cells. The maps share one scale.`,
    });
  }
  return { id: "tiles", title: "Tiles and coverage", blocks };
}

function integrity(report: ReportInput): Section {
  const found = report.integrity;
  if (found === undefined || found === null) {
    return {
      id: "integrity",
      title: "Output integrity",
      blocks: [
        paragraph(
          say`${strong("Not verified yet.")} Nobody has re-read this output from disk. To do it: ${verifyCommand(report)}`,
        ),
      ],
    };
  }
  const passed = found.checks.filter(({ ok }) => ok).length;
  const verdict = found.ok
    ? say`${strong(`All ${count(found.checks.length)} checks passed`)}: donor and output were re-read from disk on ${foreign(timestamp(found.verified_at))}, independently of the run.`
    : say`${strong(`${counted(found.difference_count, "difference")} found`)}, ${count(passed)} of ${count(found.checks.length)} checks passed. Donor and output were re-read from disk on ${foreign(timestamp(found.verified_at))}. Do not use this output before you know why: ${verifyCommand(report)} lists every difference.`;
  const { parity } = found;
  return {
    id: "integrity",
    title: "Output integrity",
    blocks: [
      paragraph(verdict),
      paragraph(
        parity.tiles_checked === 0
          ? report.flow === "activation"
            ? say`Which tubes this flow leaves is not worked out again from the donor: that would be the operation over again. Its zeros, its healed survivors and its bytes are held to the ledger.`
            : say`Parity with the reference was not probed.`
          : say`Parity with the reference (every weight iterated by the readable code): ${foreign(parity.mode)}, ${count(parity.tiles_checked)} of ${counted(parity.tiles_total, "tile")}, ${counted(parity.weights_checked, "weight")}${parity.tiles_checked < parity.tiles_total ? "; the others were not compared" : ""}.`,
      ),
      table(
        "Checks",
        ["Check", "Result", "Found"],
        found.checks.map((check) => [
          say`${foreign(check.name)}`,
          say`${check.ok ? "✅ passed" : "❌ failed"}`,
          say`${foreign(check.detail)}`,
        ]),
      ),
    ],
  };
}

export function verifyCommand(report: ReportInput): Piece {
  return command(`physarium verify ${shellQuote(report.donor.path)} ${shellQuote(report.output.path)}`);
}

function time(report: ReportInput): Section {
  const shards = [...report.shards].sort((a, b) => a.order - b.order);
  let before = 0;
  const rows = shards.map((shard): Text[] => {
    const delta = shard.killed_cumulative - before;
    before = shard.killed_cumulative;
    return [
      say`${code(shard.file)}`,
      say`${count(shard.order)}`,
      say`${duration(shard.seconds)}`,
      say`${count(delta)}`,
      say`${count(shard.killed_cumulative)}`,
      say`${percent(share(shard.killed_cumulative, report.totals.target_weights))}`,
    ];
  });
  const blocks: Block[] = [
    paragraph(
      say`The whole operation took ${strong(duration(report.wall_seconds))}${report.wall_seconds > 0 ? `, ${byteSize(report.donor.total_size / report.wall_seconds)} of model a second` : ""}, with at most ${byteSize(report.peak_rss_bytes)} of memory.`,
    ),
  ];
  if (shards.length > 0) {
    blocks.push(
      {
        kind: "picture",
        picture: "timeline",
        title: "Shards and kills over time",
        caption: say`Weights killed since the start at the end of each shard, in the order of the run.`,
      },
      limited(
        table(
          "Wall clock by shard",
          ["Shard", "Order", "Time", "Killed in it", "Killed so far", "So far, of target weights"],
          rows,
          [1, 2, 3, 4, 5],
        ),
        say`surgery.json has the rest`,
      ),
    );
  }
  return { id: "time", title: "Wall clock by shard", blocks };
}

function tensors(report: ReportInput): Section {
  const rows = report.per_tensor;
  const cells = (row: (typeof rows)[number]): Text[] => [
    say`${code(row.name)}`,
    say`${foreign(row.dtype)} ${row.shape.map((n) => fixed(n, 0)).join(" × ")}`,
    say`${count(row.tiles)}`,
    say`${count(row.weights)}`,
    say`${count(row.killed)}`,
    say`${count(row.already_zero)}`,
    say`${percent(row.sparsity)}`,
  ];
  const columns = ["Tensor", "Dtype, shape", "Tiles", "Weights", "Killed", "Zero before", "Sparsity"];
  const numeric = [2, 3, 4, 5, 6];
  if (rows.length <= MAX_ROWS) {
    return {
      id: "tensors",
      title: "Every tensor",
      blocks: [
        paragraph(
          rows.length === 0
            ? say`No tensor was operated on.`
            : say`The ${counted(rows.length, "target tensor")}, as they lie in the shards; the log of the run has the same lines.`,
        ),
        ...(rows.length === 0
          ? []
          : [{ ...table(`All ${counted(rows.length, "tensor")}`, columns, rows.map(cells), numeric), folded: true }]),
      ],
    };
  }
  const sorted = [...rows].sort((a, b) => b.sparsity - a.sparsity);
  return {
    id: "tensors",
    title: "Every tensor",
    blocks: [
      paragraph(
        say`There are ${count(rows.length)} target tensors: here are the ${ENDS} most and the ${ENDS} least pruned, all others are in surgery.json and run.log.`,
      ),
      { ...table(`The ${ENDS} most pruned`, columns, sorted.slice(0, ENDS).map(cells), numeric), folded: true },
      {
        ...table(`The ${ENDS} least pruned`, columns, sorted.slice(-ENDS).reverse().map(cells), numeric),
        folded: true,
      },
    ],
  };
}

function files(report: ReportInput): Section {
  const blocks: Block[] = [];
  if (report.side_files.length > 0) {
    blocks.push(
      paragraph([
        `Copied byte for byte: `,
        ...report.side_files.slice(0, 60).flatMap((file, i): Piece[] => [i === 0 ? "" : ", ", code(file)]),
        report.side_files.length > 60
          ? ` and ${count(report.side_files.length - 60)} more, listed in surgery.json.`
          : ".",
      ]),
    );
  } else {
    blocks.push(paragraph(say`The donor had no side files.`));
  }
  if (report.left_out.length > 0) {
    blocks.push(
      limited(
        table(
          "Left out",
          ["File", "Why"],
          report.left_out.map(({ file, reason }) => [say`${code(file)}`, say`${foreign(reason)}`]),
        ),
        say`surgery.json has the rest`,
      ),
    );
  } else {
    blocks.push(paragraph(say`Nothing in the donor's folder was left out.`));
  }
  if (report.warnings.length > 0) {
    blocks.push(
      limited(
        table(
          counted(report.warnings.length, "warning"),
          ["Code", "Message"],
          report.warnings.map((warning) => [say`${code(warning.code)}`, say`${foreign(warning.message)}`]),
        ),
        say`the ledger has the rest`,
      ),
    );
  } else {
    blocks.push(paragraph(say`The run gave no warning.`));
  }
  return { id: "files", title: "Files and warnings", blocks };
}

function table(
  caption: string,
  columns: readonly string[],
  rows: readonly (readonly Text[])[],
  numeric: readonly number[] = [],
): Table {
  return { kind: "table", caption, columns: columns.map((name, i) => ({ name, numeric: numeric.includes(i) })), rows };
}

/** At most `MAX_ROWS` rows, and a sentence that says where the others are. */
function limited(whole: Table, where: Text): Table {
  if (whole.rows.length <= MAX_ROWS) return whole;
  return {
    ...whole,
    rows: whole.rows.slice(0, MAX_ROWS),
    note: say`The first ${count(MAX_ROWS)} of ${count(whole.rows.length)} rows; ${where}.`,
  };
}
