import type { ReportInput, SpeechNumbers } from "../record/report-input.js";
import { count, percent, significant } from "./number-words.js";
import {
  type Block,
  foreign,
  type Piece,
  paragraph,
  type Section,
  say,
  strong,
  type Table,
  type Text,
} from "./report-text.js";
import { table } from "./table.js";

/** What the models write, side by side, and where their predictions differ most. */
export function textsSection(report: ReportInput): Section | undefined {
  const blocks: Block[] = [];
  const { speech, quality } = report;
  if (speech != null && speech.prompts.length > 0) blocks.push(...speechBlocks(speech));
  const changed = quality?.changed_tokens ?? [];
  if (changed.length > 0) {
    const rows = changed.map(({ before, token, kl, p_donor, p_model, top_donor, top_model }): Text[] => [
      say`${spoken(`…${before}`)}${strong("▸")}${spoken(token)}`,
      say`${significant(kl, 3)}`,
      say`${percent(p_donor)}`,
      say`${percent(p_model)}`,
      say`${spoken(top_donor)}`,
      say`${spoken(top_model)}`,
    ]);
    blocks.push(
      paragraph(say`The places of the text where the operated model differs most from its donor, by KL divergence.`),
      table(
        "Most changed tokens",
        ["The text, and the token", "KL", "Donor gives it", "Operated gives it", "Donor's first", "Operated's first"],
        rows,
        [1, 2, 3],
      ),
    );
  }
  return blocks.length === 0 ? undefined : { id: "texts", title: "What they write", blocks };
}

function speechBlocks({ prompts, accepted }: SpeechNumbers): Block[] {
  const mean = (of: (prompt: SpeechNumbers["prompts"][number]) => number): number =>
    prompts.reduce((sum, prompt) => sum + of(prompt), 0) / prompts.length;
  const [donor, model] = [mean((p) => p.donor.repetition), mean((p) => p.model.repetition)];
  const texts: Table = table(
    "Greedy continuations",
    ["Prompt", "Donor", "Operated", "Alike", "Repeats"],
    prompts.map((prompt): Text[] => [
      say`${spoken(prompt.prompt)}`,
      say`${spoken(prompt.donor.text)}`,
      markDifference(prompt.donor.text, prompt.model.text),
      say`${count(prompt.same_prefix_tokens)} tokens`,
      say`${percent(prompt.donor.repetition, 0)} → ${percent(prompt.model.repetition, 0)}`,
    ]),
    [4],
  );
  return [
    paragraph(
      say`Of the runs of four tokens in the donor's texts ${percent(donor, 0)} stood in them before, in the operated
        model's ${percent(model, 0)}; a loop comes near 100 %. The gate
        ${strong(accepted ? "accepted" : "did not accept")} the model. ${strong("▸")} marks where
        the texts part.`,
    ),
    {
      ...texts,
      note: say`Both take the most likely token each time, so that a difference is the model's. Repeats are
        the donor's → the operated model's.`,
    },
  ];
}

/** What a model wrote, in one line: its ends of lines are shown, not escaped. */
function spoken(text: string): Piece {
  return foreign(text.replace(/\r?\n/g, "↵"));
}

/** The operated model's text, with a mark where it leaves the donor's. */
function markDifference(donor: string, model: string): Text {
  let same = 0;
  while (same < Math.min(donor.length, model.length) && donor[same] === model[same]) same++;
  if (same === donor.length && same === model.length) return [spoken(model)];
  const parts: Piece[] = [strong("▸"), spoken(model.slice(same))];
  return same === 0 ? parts : [spoken(model.slice(0, same)), ...parts];
}
