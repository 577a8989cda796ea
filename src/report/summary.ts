import type { ReportInput } from "../record/report-input.js";
import { decoderLines } from "./decoder-section.js";
import { expertLines } from "./experts-section.js";
import { zerosOf } from "./layer-grid.js";
import { byteSize, count, counted, duration, percent, percentRange, share } from "./number-words.js";
import { qualitySentence } from "./quality-section.js";
import { remarksOf } from "./remarks.js";
import { foreign, plain, say } from "./report-text.js";

/**
 * The report in a dozen plain lines for a terminal: what was done, both denominators, what is proven and what is not.
 */
export function renderSummary(report: ReportInput): string {
  const { donor, totals, coverage, integrity, quality, worth, params } = report;
  const remarks = remarksOf(report);
  const rows: [string, string][] = [];
  rows.push(["donor", plain(say`${foreign(donor.path)}`)]);
  rows.push([
    "",
    `${counted(donor.tensor_count, "tensor")} in ${counted(donor.shard_count, "shard")}, ${byteSize(donor.total_size)}`,
  ]);
  if (donor.proven !== undefined) rows.push(["", `donor proven, ${plain(say`${foreign(donor.proven)}`)}`]);
  rows.push(["output", plain(say`${foreign(report.output.path)}`)]);
  const name = plain(say`${foreign(report.flow)} ${foreign(report.flow_version)}`);
  rows.push([
    "flow",
    `${name}${report.flow === "magnitude" ? " (our reconstruction)" : ""}: ` +
      `${report.activation !== undefined ? "" : `block ${params.block_size}, `}${params.n_iter} iterations, beta ` +
      `${params.beta}, ${aimOf(report)}`,
  ]);
  rows.push(["killed", `${count(totals.killed)} weights: not zero before, zero now`]);
  rows.push([
    "",
    `${percent(share(totals.killed, totals.target_weights))} of ${count(totals.target_weights)} target projection ` +
      "weights",
  ]);
  rows.push([
    "",
    `${percent(share(totals.killed, totals.model_weights))} of ${count(totals.model_weights)} weights of the full ` +
      "model",
  ]);
  rows.push(["zeros", zerosNow(report)]);
  rows.push([
    "tensors",
    `${count(totals.tensors)}, zeros ${percentRange(totals.min_sparsity, totals.max_sparsity)}, mean ` +
      `${percent(totals.mean_sparsity)}${totals.failed_tensors > 0 ? `, ${count(totals.failed_tensors)} FAILED` : ""}`,
  ]);
  if (remarks.standOut.length > 0) {
    const shown = remarks.standOut.slice(0, 4).map((layer) => `layer ${layer.layer} (${percent(layer.sparsity)})`);
    const more = remarks.standOut.length - shown.length;
    rows.push([
      "layers",
      `${shown.join(", ")}${more > 0 ? ` and ${more} more` : ""} stand out; the median layer has ` +
        `${percent(remarks.medianLayer)} zeros`,
    ]);
  } else if (remarks.band !== undefined) {
    rows.push([
      "layers",
      `${remarks.layerCount === 1 ? "one" : count(remarks.layerCount)}, ` +
        `${percentRange(remarks.band.low, remarks.band.high)} ` +
        `zeros${remarks.layerCount > 1 ? "; none stands out" : ""}`,
    ]);
  }
  rows.push(["coverage", `${percent(coverage.fraction)} of the target weights, ${counted(coverage.tiles, "tile")}`]);
  for (const line of decoderLines(report.decoder)) rows.push(["", line]);
  for (const [at, line] of expertLines(report.activation).entries()) rows.push([at === 0 ? "experts" : "", line]);
  rows.push(["time", `${duration(report.wall_seconds)}, memory ${byteSize(report.peak_rss_bytes)}`]);
  rows.push(["verified", verdict(integrity)]);
  rows.push(["quality", quality == null ? "untested: no forward pass was run" : plain(qualitySentence(quality))]);
  if (worth != null) {
    rows.push([
      "packed",
      `${byteSize(worth.size_packed)} instead of ${byteSize(worth.size_now)}, ` +
        `${percent(worth.packed_fraction)}${worth.packed_is === "exact" ? "" : " (estimated)"}`,
    ]);
  }
  if (report.warnings.length > 0) rows.push(["warnings", `${count(report.warnings.length)}, listed in the report`]);
  const width = Math.max(...rows.map(([label]) => label.length));
  return `${rows.map(([label, text]) => `${label.padEnd(width)}  ${text}`).join("\n")}\n`;
}

/** All zeros of the targets, and where they come from: what was killed is not all of them where some were there before. */
function zerosNow({ per_tensor, totals }: ReportInput): string {
  const zeros = zerosOf(per_tensor);
  const { killed, already_zero, target_weights } = totals;
  const revived = killed + already_zero - zeros;
  const parts = [
    `${count(killed)} killed`,
    ...(already_zero > 0 ? [`${count(already_zero)} zero before`] : []),
    ...(revived > 0 ? [`${count(revived)} of these alive again`] : []),
  ];
  const all = `${percent(share(zeros, target_weights))} of the target weights`;
  return parts.length === 1 ? `${all}; none was zero before` : `${all}: ${parts.join(", ")}`;
}

/** What the flow was told to reach. */
function aimOf({ params }: ReportInput): string {
  const target = (params.activation as { target?: { pattern?: { keep: number; of: number } } } | undefined)?.target;
  if (target?.pattern !== undefined) return `${target.pattern.keep} of every ${target.pattern.of} inputs kept`;
  if (params.survival !== null) return `survival ${params.survival}`;
  return `${percent(params.target_sparsity)} zeros wanted`;
}

function verdict(integrity: ReportInput["integrity"]): string {
  if (integrity == null) return "not yet";
  const passed = integrity.checks.filter(({ ok }) => ok).length;
  const { tiles_checked: checked, tiles_total: total, reference_tiles: byReference = checked } = integrity.parity;
  const how = byReference < checked ? "the flow done over again" : "parity with the reference";
  const parity = checked === 0 ? "parity not probed" : `${how} on ${count(checked)} of ${counted(total, "tile")}`;
  return integrity.ok
    ? `yes: ${counted(passed, "check")}, ${parity}`
    : `NO: ${counted(integrity.difference_count, "difference")}, ${passed} of ${integrity.checks.length} checks passed`;
}
