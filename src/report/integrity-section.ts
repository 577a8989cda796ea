import type { ReportInput } from "../record/report-input.js";
import { count, counted, timestamp } from "./number-words.js";
import { command, foreign, type Piece, paragraph, type Section, say, shellQuote, strong } from "./report-text.js";
import { table } from "./table.js";

/** What verification found, or that nobody has verified. */
export function integritySection(report: ReportInput): Section {
  const found = report.integrity;
  if (found === undefined || found === null) {
    return {
      id: "integrity",
      title: "Output integrity",
      blocks: [
        paragraph(
          say`${strong("Not verified yet.")} Nobody has re-read this output from disk. To do it:
            ${verifyCommand(report)}`,
        ),
      ],
    };
  }
  const passed = found.checks.filter(({ ok }) => ok).length;
  const verdict = found.ok
    ? say`${strong(`All ${count(found.checks.length)} checks passed`)}: donor and output were re-read from disk on
      ${foreign(timestamp(found.verified_at))}, independently of the run.`
    : say`${strong(`${counted(found.difference_count, "difference")} found`)}, ${count(passed)} of
      ${count(found.checks.length)} checks passed. Donor and output were re-read from disk on
      ${foreign(timestamp(found.verified_at))}. Do not use this output before you know why: ${verifyCommand(report)}
      lists every difference.`;
  const { parity } = found;
  return {
    id: "integrity",
    title: "Output integrity",
    blocks: [
      paragraph(verdict),
      paragraph(
        parity.tiles_checked === 0
          ? report.activation !== undefined
            ? say`Which tubes this flow leaves is not worked out again from the donor: that would be the operation over
              again. Its zeros, its healed survivors and its bytes are held to the ledger.`
            : parity.reference_tiles !== undefined && parity.reference_tiles < parity.tiles_checked
              ? say`The flow was done over again on ${count(parity.tiles_checked)} of
                ${counted(parity.tiles_total, "tile")}, ${counted(parity.weights_checked, "weight")}, and the reference
                (every weight iterated by the readable code) on ${count(parity.reference_tiles)} of them.`
              : say`Parity with the reference was not probed.`
          : parity.reference_tiles !== undefined && parity.reference_tiles < parity.tiles_checked
            ? say`The flow was done over again on ${count(parity.tiles_checked)} of
              ${counted(parity.tiles_total, "tile")}, ${counted(parity.weights_checked, "weight")}, and the reference
              (every weight iterated by the readable code) on ${count(parity.reference_tiles)} of them.`
            : say`Parity with the reference (every weight iterated by the readable code): ${foreign(parity.mode)},
              ${count(parity.tiles_checked)} of ${counted(parity.tiles_total, "tile")},
              ${counted(parity.weights_checked, "weight")}${
                parity.tiles_checked < parity.tiles_total ? "; the others were not compared" : ""
              }.`,
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
