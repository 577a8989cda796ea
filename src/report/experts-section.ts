import type { ActivationSection } from "../record/surgery-report.js";
import { count, counted, percent } from "./number-words.js";
import { type Block, code, paragraph, plain, say, type Text } from "./report-text.js";
import { limited, table } from "./table.js";

/** Matrices of experts to which fewer calibration tokens came than they have inputs. */
interface UnderSeen {
  readonly name: string;
  /** Number in a stack. */
  readonly index: number | undefined;
  readonly tokens: number;
  readonly inputs: number;
}

/** Experts that the summary names. */
const NAMED = 3;

function expertsOf({ tensors }: ActivationSection): { matrices: number; few: UnderSeen[] } {
  let matrices = 0;
  const few: UnderSeen[] = [];
  for (const { name, expert_tokens: seen, expert_inputs: inputs } of tensors) {
    if (seen === undefined || inputs === undefined) continue;
    matrices += seen.length;
    seen.forEach((tokens, at) => {
      if (tokens < inputs) few.push({ name, index: seen.length === 1 ? undefined : at, tokens, inputs });
    });
  }
  return { matrices, few: few.sort((a, b) => a.tokens / a.inputs - b.tokens / b.inputs) };
}

/** For the terminal: experts that saw too few tokens to be healed as the others were. Empty where there is none. */
export function expertLines(activation: ActivationSection | undefined): string[] {
  if (activation === undefined) return [];
  const { matrices, few } = expertsOf(activation);
  if (few.length === 0) return [];
  const rest = few.length - NAMED;
  return [
    `${count(few.length)} of ${counted(matrices, "expert matrix", "expert matrices")} saw fewer tokens than they ` +
      "have inputs and are healed less; more --samples help",
    ...few
      .slice(0, NAMED)
      .map((each) => plain(say`${where(each)}: ${counted(each.tokens, "token")} for ${count(each.inputs)} inputs`)),
    ...(rest > 0 ? [`${count(rest)} more, listed in the report`] : []),
  ];
}

/** Which experts saw too few tokens, and what that means. */
export function expertBlocks(activation: ActivationSection): Block[] {
  const { matrices, few } = expertsOf(activation);
  if (matrices === 0) return [];
  const rule = say`Each expert is operated on by the tokens that its router sends to it. n tokens cannot tell more than
    n inputs apart: where fewer came than a matrix has inputs, its statistics count by that share alone, and the rest is
    taken as inputs that are all alike. So it is chosen more by magnitude and healed less; without any token the
    survivors keep the donor's bits.`;
  if (few.length === 0) {
    return [paragraph(say`${rule} All ${counted(matrices, "expert matrix", "expert matrices")} saw enough.`)];
  }
  return [
    paragraph(rule),
    limited(
      table(
        `${count(few.length)} of ${counted(matrices, "expert matrix", "expert matrices")} that saw too few tokens`,
        ["Matrix", "Tokens", "Inputs", "Healed by"],
        few.map((each): Text[] => [
          where(each),
          say`${count(each.tokens)}`,
          say`${count(each.inputs)}`,
          say`${percent(each.tokens / each.inputs)}`,
        ]),
        [1, 2, 3],
      ),
      say`surgery.json has the rest`,
    ),
  ];
}

function where({ name, index }: UnderSeen): Text {
  return index === undefined ? say`${code(name)}` : say`${code(name)}, expert ${count(index)}`;
}
