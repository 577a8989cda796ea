import { Template } from "@huggingface/jinja";
import { PhysariumError } from "../../errors.js";
import type { Ask, ChatTurn } from "./engine.js";

/** What a model says of its own way to write conversations. */
export interface ChatWords {
  readonly template: string | undefined;
  readonly bos: string;
  readonly eos: string;
}

/** A prompt as the engine's tokenizer gets it. */
export interface PromptText {
  readonly text: string;
  /** Whether words like `<|im_start|>` in the text are the tokens of that name. */
  readonly special: boolean;
  /** The text has the BOS already: a chat template writes it itself, where it wants one. */
  readonly hasBos: boolean;
}

export function promptText(prompt: Ask["prompt"], words: ChatWords): PromptText {
  const { text, special } =
    "text" in prompt ? { ...prompt, special: false } : chatPrompt(prompt.turns, prompt.chatml, words);
  return { text, special, hasBos: special && words.bos !== "" && text.startsWith(words.bos) };
}

/**
 * A conversation as one text for the engine's tokenizer. ChatML where that was asked for, the model's own template
 * where it has one, plain text otherwise: the messages one under the other.
 */
function chatPrompt(
  turns: readonly ChatTurn[],
  chatml: boolean,
  words: ChatWords,
): Pick<PromptText, "text" | "special"> {
  if (chatml) {
    const written = turns.map(({ role, content }) => `<|im_start|>${role}\n${content}<|im_end|>\n`);
    return { text: `${written.join("")}<|im_start|>assistant\n`, special: true };
  }
  if (words.template === undefined) return { text: turns.map(({ content }) => content).join("\n"), special: false };
  try {
    const context = {
      messages: turns.map((turn) => ({ ...turn })),
      add_generation_prompt: true,
      bos_token: words.bos,
      eos_token: words.eos,
    };
    return { text: new Template(words.template).render(context), special: true };
  } catch (error) {
    throw new PhysariumError(
      "DONOR_CHAT_TEMPLATE",
      `the model's chat template failed: ${(error as Error).message}`,
      {},
      error,
    );
  }
}
