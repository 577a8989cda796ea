import { randomUUID } from "node:crypto";
import { Template } from "@huggingface/jinja";
import { PhysariumError } from "../../errors.js";
import type { Ask, ChatTurn } from "./engine.js";

/** What a model says of its own way to write conversations. */
export interface ChatWords {
  readonly template: string | undefined;
  readonly bos: string;
  readonly eos: string;
}

/** An engine's way to cut text. */
export interface EngineTokenizer {
  /** Ids of a text, nothing added; `special`: words like `<|im_start|>` in it are the tokens of that name. */
  tokenize(text: string, special: boolean): number[] | Promise<number[]>;
  /** What the model wants in front of everything. */
  readonly bos: number | undefined;
}

/** A stretch of a prompt as the tokenizer gets it. */
interface Piece {
  readonly text: string;
  readonly special: boolean;
}

/**
 * Ids of a prompt, the BOS included where the model wants one and its template has not written it. Special tokens are
 * read where a template writes them and nowhere else: of what stands in a turn they are plain text, so that nobody ends
 * a turn, or begins one of another role, from within. Throws `DONOR_CHAT_TEMPLATE`.
 */
export async function promptIds(
  prompt: Ask["prompt"],
  words: ChatWords,
  tokenizer: EngineTokenizer,
): Promise<number[]> {
  const pieces =
    "text" in prompt
      ? [{ text: prompt.text, special: false }]
      : await chatPieces(prompt.turns, prompt.chatml, words, tokenizer);
  const ids: number[] = [];
  for (const { text, special } of pieces) ids.push(...(await tokenizer.tokenize(text, special)));
  const [first] = pieces;
  const hasBos = first?.special === true && words.bos !== "" && first.text.startsWith(words.bos);
  const { bos } = tokenizer;
  return bos === undefined || hasBos || ids[0] === bos ? ids : [bos, ...ids];
}

/** Throws `USAGE_PROMPT` where a prompt leaves no room for an answer; else the tokens that are left. */
export function roomBehind(ids: readonly number[], context: number): number {
  const room = context - ids.length;
  if (room >= 1) return room;
  throw new PhysariumError(
    "USAGE_PROMPT",
    `the prompt has ${ids.length} tokens, the body's context ${context}; shorten it, or give the body more context`,
    { tokens: ids.length, context },
  );
}

async function chatPieces(
  turns: readonly ChatTurn[],
  chatml: boolean,
  words: ChatWords,
  tokenizer: EngineTokenizer,
): Promise<Piece[]> {
  if (!chatml && words.template === undefined) {
    return [{ text: turns.map(({ content }) => content).join("\n"), special: false }];
  }
  const marks = new Map<string, string>();
  const marked = (await holdsSpecial(turns.map(({ content }) => content).join("\n"), tokenizer))
    ? await Promise.all(
        turns.map(async (turn) => {
          if (!(await holdsSpecial(turn.content, tokenizer))) return turn;
          // No text of a client's can be this one: it is drawn after the text came.
          const mark = `\u{F8F0}${randomUUID()}\u{F8F1}`;
          marks.set(mark, turn.content);
          return { ...turn, content: mark };
        }),
      )
    : turns;
  const text = chatText(marked, chatml, words);
  if (marks.size === 0) return [{ text, special: true }];
  // A stretch between two marks is the template's, with turns that hold nothing special.
  const stretches = text.split(new RegExp(`(${[...marks.keys()].join("|")})`));
  return stretches
    .filter((stretch) => stretch !== "")
    .map((stretch) => {
      const content = marks.get(stretch);
      return content === undefined ? { text: stretch, special: true } : { text: content, special: false };
    });
}

/** Whether the tokenizer would read special tokens in a text that is to be none. */
async function holdsSpecial(text: string, tokenizer: EngineTokenizer): Promise<boolean> {
  const [plain, special] = [await tokenizer.tokenize(text, false), await tokenizer.tokenize(text, true)];
  return plain.length !== special.length || plain.some((id, at) => id !== special[at]);
}

/** A conversation as one text: ChatML where that was asked for, else by the model's own template. */
function chatText(turns: readonly ChatTurn[], chatml: boolean, words: ChatWords): string {
  if (chatml) {
    const written = turns.map(({ role, content }) => `<|im_start|>${role}\n${content}<|im_end|>\n`);
    return `${written.join("")}<|im_start|>assistant\n`;
  }
  try {
    const context = {
      messages: turns.map((turn) => ({ ...turn })),
      add_generation_prompt: true,
      bos_token: words.bos,
      eos_token: words.eos,
    };
    return new Template(words.template!).render(context);
  } catch (error) {
    throw new PhysariumError(
      "DONOR_CHAT_TEMPLATE",
      `the model's chat template failed: ${(error as Error).message}`,
      {},
      error,
    );
  }
}
