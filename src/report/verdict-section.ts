import type { ReportInput } from "../record/report-input.js";
import { type Verdict, verdictOf } from "../record/verdict.js";
import { fixed, percent, significant } from "./number-words.js";
import { type Block, paragraph, type Section, say, strong, type Table, type Text } from "./report-text.js";
import { table } from "./table.js";

/** What became of the model in a word, with its basis. */
export function verdictSection(report: ReportInput): Section {
  const verdict = verdictIn(report);
  const blocks: Block[] =
    verdict === undefined
      ? [
          paragraph(
            say`${strong("Not measured.")} Whether the model is intact, noticeably changed or broken shows a text only;
              the next commands have the one that measures it.`,
          ),
        ]
      : [paragraph(say`${strong(verdict.word)}${verdict.sentence.slice(verdict.word.length)}.`), basisTable(verdict)];
  return { id: "verdict", title: "Verdict", blocks };
}

/** The verdict on what was measured, where something was. */
export function verdictIn({ quality }: ReportInput): Verdict | undefined {
  return quality?.divergence == null ? undefined : verdictOf(quality.divergence);
}

const NAMES = {
  kl_mean: "Mean KL divergence, nats a token",
  same_top: "Same most likely token",
  perplexity_ratio: "Perplexity, of the donor's",
} as const;

function basisTable({ basis }: Verdict): Table {
  const rows = basis.map(({ measure, value, stderr, intact, broken, word }): Text[] => {
    const write = (number: number): string => {
      if (measure === "same_top") return percent(number);
      return measure === "kl_mean" ? significant(number, 3) : `× ${fixed(number, 3)}`;
    };
    const error = measure === "same_top" ? percent(stderr) : significant(stderr, 2);
    return [
      say`${NAMES[measure]}`,
      say`${write(value)} ± ${error}`,
      say`${write(intact)}`,
      say`${write(broken)}`,
      say`${word}`,
    ];
  });
  return {
    ...table(
      "What the verdict rests on",
      ["Measure", "Here", "Intact up to", "Broken beyond", "Alone"],
      rows,
      [1, 2, 3],
    ),
    note: say`Intact is less than twice what Q6_K changes, broken more than Q4_0 costs, as measured on
      SmolLM2-135M-Instruct (docs/verdict.md). A measure counts where it is clear of a limit by two standard errors.`,
  };
}
