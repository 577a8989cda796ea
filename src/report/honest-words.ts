import type { ReportInput } from "../record/report-input.js";
import { zerosOf } from "./layer-grid.js";
import { byteSize, count, counted, isNumber, percent, percentRange, share } from "./number-words.js";
import { evalCommand, isCalibrationText, qualitySentence } from "./quality-section.js";
import { code, command, type List, say, shellQuote, strong } from "./report-text.js";

/**
 * A perplexity up to a twentieth over the donor's reads as "holds", more as a warning; where to draw the line is a
 * matter of taste.
 */
const GENTLE = 1.05;
/** A target sparsity missed by more than a tenth of a point is said. */
const MISSED = 0.001;

/** Routers and convolutions make up less than this of a decoder; with more left out, "every target" says too much. */
const NEARLY_ALL = 0.95;

type Item = List["items"][number];

/**
 * What a reader might look for and not find, and how to get it. Depends on what was done, so it never claims a gap that
 * is closed.
 */
export function notInThisReport(report: ReportInput): List {
  const items: Item[] = [];
  if (report.quality == null) {
    items.push({
      text: say`${strong("Inference quality.")} No forward pass was run on this output, so nothing here says that it
        still writes sense. To measure it: ${evalCommand(report)}`,
    });
  } else {
    items.push({
      text: say`${strong("Tasks.")} Quality was measured as perplexity on one text (${code(report.quality.text.name)});
        no benchmark of questions, code or instructions was run.`,
    });
  }
  const { integrity } = report;
  if (integrity == null) {
    items.push({
      text: say`${strong("Verification.")} The output was not re-read from disk after the run; the counts are the run's
        own.`,
    });
  } else if (report.activation !== undefined) {
    items.push({
      text: say`${strong("The choice repeated.")} Verification holds zeros, healed survivors and digests to the ledger;
        that the same calibration leads to the same choice again is shown only by running the operation again.`,
    });
  } else if (integrity.parity.tiles_checked < integrity.parity.tiles_total) {
    items.push({
      text: say`${strong("Full parity.")} The reference was run on ${count(integrity.parity.tiles_checked)} of
        ${counted(integrity.parity.tiles_total, "tile")}; ${command("physarium verify --parity full")} runs it on all.`,
    });
  }
  if (report.worth == null) {
    items.push({
      text: say`${strong("What the zeros are worth.")} How small the output packs, and in which memory it fits, was not
        worked out.`,
    });
  }
  if (report.flow === "magnitude" || report.flow === "balanced") {
    items.push({
      text: say`${strong("Activations.")} This flow never ran the model: which weights matter for real inputs is not in
        it.`,
    });
  }
  items.push({
    text: say`${strong("Other methods.")} No other pruning method was run on this donor;
      ${command(`physarium compare ${shellQuote(report.donor.path)} --text FILE`)} makes that table.`,
  });
  if (report.totals.failed_tensors > 0) {
    items.push({
      text: say`${strong("Failed tensors.")} ${counted(report.totals.failed_tensors, "tensor")} could not be operated
        on; the ledger says why.`,
    });
  }
  return { kind: "list", items };
}

/** What one may claim of this output and what not. */
export function assessment(report: ReportInput): List {
  const { totals, coverage, integrity, quality, worth } = report;
  const items: Item[] = [];
  const good = (text: Item["text"]) => items.push({ mark: "good", text });
  const warning = (text: Item["text"]) => items.push({ mark: "warning", text });

  if (totals.failed_tensors === 0 && coverage.fraction === 1) {
    good(
      say`The operation ran to its end: ${counted(totals.tensors, "target tensor")}, ${counted(coverage.tiles, "tile")},
        every target weight seen, none failed.`,
    );
    const { fraction: ofDecoder, untouched } = report.decoder ?? { fraction: 1, untouched: [] };
    if (ofDecoder < NEARLY_ALL) {
      warning(
        say`The targets are ${percent(ofDecoder)} of the weights in the matrices of the decoder's layers:
          ${code(untouched[0]?.pattern ?? "")} and ${counted(Math.max(untouched.length - 1, 0), "other kind")} of
          matrices were left as they are.`,
      );
    }
  } else {
    warning(
      say`The operation is not whole: ${percent(coverage.fraction)} of the target weights were seen,
        ${counted(totals.failed_tensors, "tensor")} failed.`,
    );
  }
  if (integrity == null) {
    warning(say`The output has not been verified. Until it is, take the counts as what the run says of itself.`);
  } else if (integrity.ok) {
    good(
      say`The output is a valid checkpoint, re-read from disk: shards, headers, shapes, dtypes and side
        files${report.model_card === undefined ? "" : " (but for the model card)"} are the donor's, what was not
        operated on is byte-identical, and the zeros were counted again.`,
    );
  } else {
    warning(
      say`Verification found ${counted(integrity.difference_count, "difference")}. This output should not be used.`,
    );
  }
  if (isNumber(totals.min_sparsity) && totals.tensors > 0) {
    const asked = report.params.target_sparsity;
    const reached = share(zerosOf(report.per_tensor), totals.target_weights) ?? 0;
    const missed = asked !== undefined && Math.abs(reached - asked) > MISSED;
    const why =
      report.activation !== undefined && asked !== undefined && reached > asked
        ? ": a place that was to live holds a zero, as where the donor's weight was 0 and nothing healed it"
        : "";
    (missed ? warning : good)(
      say`${percent(share(totals.killed, totals.target_weights))} of the target projection weights were killed
        (${percent(share(totals.killed, totals.model_weights))} of the full model), with
        ${percentRange(totals.min_sparsity, totals.max_sparsity)} zeros a tensor${
          asked === undefined
            ? "; no rate was set, it emerged from the weights"
            : `, asked for ${percent(asked)} zeros over all targets`
        }.${missed ? ` It came to ${percent(reached)}${why}.` : ""}`,
    );
  }
  if (quality == null) {
    warning(
      say`“It loads” is not “it generates”: inference quality is untested. The next step is a forward pass:
        ${evalCommand(report)}`,
    );
  } else if (quality.divergence === null || quality.donor === null) {
    warning(say`Perplexity was measured without the donor beside it, so it does not say what surgery cost.`);
  } else {
    const { perplexity_ratio: ratio, ln_ratio: ln, ln_ratio_stderr: error } = quality.divergence;
    const noise = Math.abs(ln) < 2 * error ? ", within the noise of this text" : "";
    const text = say`${qualitySentence(quality)} That is one text${noise}: ${code(quality.text.name)} is no proof for
      others.`;
    if (isCalibrationText(report)) {
      warning(say`${text} It is also the text that the operation was calibrated on, which flatters it.`);
    } else if (ratio <= GENTLE) good(text);
    else warning(text);
  }
  if (worth == null) {
    warning(
      say`The output still takes ${byteSize(report.donor.total_size)}: a zero is stored as a zero. The gain comes with
        packing, an export or an engine that skips zeros.`,
    );
  } else {
    warning(
      say`As it lies on disk the output takes ${byteSize(worth.size_now)}, as the donor does; packed without loss it
        would take ${byteSize(worth.size_packed)} (${percent(worth.packed_fraction)} of
        that${worth.packed_is === "exact" ? "" : ", estimated"}).`,
    );
  }
  if (report.flow === "magnitude") {
    warning(
      say`The flow is a reconstruction and sees magnitudes only. A mask that looks organic is no evidence that it spared
        what matters.`,
    );
  }
  return { kind: "list", items };
}
