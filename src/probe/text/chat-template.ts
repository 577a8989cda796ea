import { join } from "node:path";
import { Template } from "@huggingface/jinja";
import { readSmallFile } from "../../checkpoint/file-layer.js";
import { isPhysariumError, PhysariumError } from "../../errors.js";
import type { TextTokenizer } from "./tokenizer.js";

export interface ChatMessage {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
}

/**
 * Write a conversation as the model was trained to read it, up to where its answer begins.
 *
 * The template is `chat_template.jinja` or `chat_template` of tokenizer_config.json. Throws `DONOR_CHAT_TEMPLATE` where there is none or it fails.
 */
export async function renderChat(
  folder: string,
  tokenizer: TextTokenizer,
  messages: readonly ChatMessage[],
): Promise<string> {
  const source = (await readTemplateFile(folder)) ?? templateIn(tokenizer.config.chat_template);
  if (source === undefined) {
    throw new PhysariumError(
      "DONOR_CHAT_TEMPLATE",
      `${folder}: the model has no chat template; leave --chat away to continue the prompt as plain text`,
      { path: folder },
    );
  }
  try {
    return new Template(source).render({
      messages,
      add_generation_prompt: true,
      bos_token: tokenizer.bos?.text ?? "",
      eos_token: tokenizer.eos?.text ?? "",
    });
  } catch (error) {
    throw new PhysariumError(
      "DONOR_CHAT_TEMPLATE",
      `${folder}: the chat template failed: ${(error as Error).message}`,
      { path: folder },
      error,
    );
  }
}

async function readTemplateFile(folder: string): Promise<string | undefined> {
  try {
    return new TextDecoder().decode(await readSmallFile(join(folder, "chat_template.jinja")));
  } catch (error) {
    if (isPhysariumError(error, "IO_NOT_FOUND")) return undefined;
    throw error;
  }
}

/** One template, or several by name, of which `default` is meant. */
function templateIn(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  if (!Array.isArray(value)) return undefined;
  const named = value as { name?: unknown; template?: unknown }[];
  const chosen = named.find(({ name }) => name === "default") ?? named[0];
  return typeof chosen?.template === "string" ? chosen.template : undefined;
}
