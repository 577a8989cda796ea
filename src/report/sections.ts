import type { ReportInput } from "../record/report-input.js";
import { curveSection } from "./curve-section.js";
import { damageSection } from "./damage-section.js";
import { decoderBlocks } from "./decoder-section.js";
import { flowBlocks } from "./flow-words.js";
import { assessment, notInThisReport } from "./honest-words.js";
import { integritySection } from "./integrity-section.js";
import { isUniform, type LayerGrid, layerGrid, sortProjections, zerosOf } from "./layer-grid.js";
import { layersSection } from "./layers-section.js";
import { filesSection, tensorsSection } from "./listing-sections.js";
import { nextSection } from "./next-commands.js";
import { byteSize, count, counted, percent, share, significant, timestamp } from "./number-words.js";
import { qualitySection } from "./quality-section.js";
import { type Remarks, remarksOf } from "./remarks.js";
import {
  type Block,
  code,
  foreign,
  paragraph,
  type ReportDocument,
  type Section,
  say,
  strong,
  type Text,
} from "./report-text.js";
import { limited, table } from "./table.js";
import { textsSection } from "./texts-section.js";
import { timeSection } from "./time-section.js";
import { verdictSection } from "./verdict-section.js";
import { worthSection } from "./worth-section.js";

/**
 * The whole report as data: the verdict and what to do next, what it cost, then what happened, as the seed's report has
 * it, and with what it said was missing.
 */
export function reportDocument(
  report: ReportInput,
  grid: LayerGrid = layerGrid(report.per_tensor),
  remarks: Remarks = remarksOf(report, grid),
): ReportDocument {
  return {
    donorName: report.donor.name,
    lede: ledeOf(report),
    sections: [
      verdictSection(report),
      { id: "assessment", title: "Honest assessment", blocks: [assessment(report)] },
      nextSection(report),
      qualitySection(report),
      curveSection(report),
      textsSection(report),
      damageSection(report),
      aggregate(report, grid),
      projections(report),
      layersSection(report, grid, remarks),
      flow(report),
      tiles(report, grid),
      integritySection(report),
      worthSection(report),
      timeSection(report),
      inputs(report),
      tensorsSection(report),
      filesSection(report),
      { id: "missing", title: "What is not in this report", blocks: [notInThisReport(report)] },
    ].filter((section): section is Section => section !== undefined),
  };
}

/** The law of the report: no kill rate without its denominator, and both denominators in the first sentence. */
export function ledeOf(report: ReportInput): Text {
  const { killed, target_weights, model_weights } = report.totals;
  return say`Surgery set ${strong(count(killed))} weights to zero: ${strong(percent(share(killed, target_weights)))} of
    the ${count(target_weights)} target projection weights, ${strong(percent(share(killed, model_weights)))} of all
    ${count(model_weights)} weights of the model.`;
}

function inputs(report: ReportInput): Section {
  const { donor, totals, params } = report;
  const settings = flatten(params);
  const rows: Text[][] = [
    [say`Donor`, say`${code(donor.path)}`],
    ...(donor.commit === undefined ? [] : [[say`Donor commit`, say`${code(donor.commit)}`]]),
    ...(donor.proven === undefined
      ? []
      : [[say`Donor proven`, say`${foreign(donor.proven)} of every shard, over the bytes that were operated on`]]),
    [
      say`Donor size`,
      say`${byteSize(donor.total_size)} (${count(donor.total_size)} bytes of tensors),
        ${counted(donor.tensor_count, "tensor")} in ${counted(donor.shard_count, "shard")}`,
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
      say`${counted(totals.tensors, "target tensor")}, ${count(totals.target_weights)} of ${count(totals.model_weights)}
        weights (${percent(share(totals.target_weights, totals.model_weights))} of the model)`,
    ],
    [
      say`Carried over`,
      say`${counted(donor.tensor_count - totals.tensors, "tensor")} byte for byte,
        ${counted(report.side_files.length, "side file")}`,
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
        say`The donor was read and never written. The output is a model folder of its own; its ledger, this report and
          the run log lie in its folder ${code("physarium/")}, which loaders ignore.`,
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

function aggregate(report: ReportInput, grid: LayerGrid): Section {
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
        say`Two denominators, and a rate means nothing without one: the projections that surgery may touch, and the
          whole model with its embeddings, norms and head, which it does not. The sparsity of a tensor is its zeros over
          its weights, those that were zero before included.`,
      ),
      table("Aggregate sparsity", ["Metric", "Value"], rows, [1]),
      isUniform(grid)
        ? paragraph(say`Every target tensor is equally sparse, so there is no picture of how they spread.`)
        : {
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
        say`Mean, least and most are over the tensors of a projection; the last column is what was killed over all
          weights of that projection.`,
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
      caption: say`Drives of ${count(histogram.sampled_weights)} weights in
        ${counted(histogram.sampled_tiles, "sampled tile")}. Left of the cut at ${significant(histogram.threshold)}
        tubes starve${starved === undefined ? [] : say`: about ${percent(starved, 1)} of these sampled weights`}.`,
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

function tiles(report: ReportInput, grid: LayerGrid): Section {
  const { coverage } = report;
  const maps = report.figures?.tile_maps ?? [];
  const blocks: Block[] = [
    paragraph(
      say`Surgery saw ${count(coverage.weights_processed)} of ${count(coverage.weights_target)} target weights in
        ${counted(coverage.tiles, "tile")}: a coverage of ${strong(percent(coverage.fraction))} of the target weights.
        Tiles do not overlap and are clipped at the edges of a matrix, so each target weight is seen once.`,
    ),
    ...decoderBlocks(report),
  ];
  if (maps.length > 0 && !isUniform(grid)) {
    blocks.push({
      kind: "picture",
      picture: "tiles",
      title: "Tiles of the most and least pruned tensor",
      caption: say`Each cell is a tile, or several where a tensor has more tiles than the map has cells. The maps share
        one scale.`,
    });
  }
  return { id: "tiles", title: "Tiles and coverage", blocks };
}
