import type { ReportInput } from "../record/report-input.js";
import { count, counted, percent } from "./number-words.js";
import { type Block, code, foreign, paragraph, plain, say, strong, type Text } from "./report-text.js";
import { limited, table } from "./table.js";

/** Kinds of untouched matrices that the summary names; the report has them all. */
const NAMED = 3;

/**
 * For the terminal: how much of the decoder was operated on, and what of it was not. Empty for reports that do not
 * know.
 */
export function decoderLines(decoder: ReportInput["decoder"]): string[] {
  if (decoder === undefined) return [];
  const { weights, fraction, untouched } = decoder;
  const rest = untouched.length - NAMED;
  return [
    `${percent(fraction)} of the ${count(weights)} weights in the matrices of decoder layers`,
    ...untouched
      .slice(0, NAMED)
      .map(({ pattern, tensors, share, why }) =>
        plain(say`untouched: ${count(tensors)} × ${foreign(pattern)}, ${percent(share)}: ${foreign(why)}`),
      ),
    ...(rest > 0 ? [`untouched: ${counted(rest, "more kind")}, listed in the report`] : []),
  ];
}

/** Coverage over the decoder's matrices, with a row for every kind that stays as it is. */
export function decoderBlocks({ decoder }: ReportInput): Block[] {
  if (decoder === undefined) return [];
  const { weights: all, target_weights, fraction, untouched } = decoder;
  const sentence = say`The decoder's layers hold ${count(all)} weights in matrices; the targets are
    ${count(target_weights)} of these, ${strong(percent(fraction))}.`;
  if (untouched.length === 0) return [paragraph(say`${sentence} No matrix of a decoder layer was left out.`)];
  return [
    paragraph(say`${sentence} The matrices below stay as they are in the donor.`),
    limited(
      table(
        "Matrices of decoder layers that were not operated on",
        ["Name", "Tensors", "Weights", "Of the layers' weights", "Why"],
        untouched.map(({ pattern, tensors, weights, share, why }): Text[] => [
          say`${code(pattern)}`,
          say`${count(tensors)}`,
          say`${count(weights)}`,
          say`${percent(share)}`,
          say`${foreign(why)}`,
        ]),
        [1, 2, 3],
      ),
      say`surgery.json has the rest`,
    ),
  ];
}
