import { type ModelSource, readWhole } from "../../checkpoint/model-source.js";
import { isPhysariumError, PhysariumError } from "../../errors.js";
import { readOptionalJson, type TextTokenizer } from "./tokenizer.js";

export interface ChatMessage {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
}

/** Templates by name; the one for plain conversations is `default`. */
type Templates = ReadonlyMap<string, string>;

/**
 * Write a conversation as the model was trained to read it, up to where its answer begins.
 *
 * Templates are found where the reference finds them: `chat_template.jinja` and
 * `additional_chat_templates/<name>.jinja`, else `chat_template` of tokenizer_config.json (one, or a list by name),
 * else `chat_template.json` (of a processor). source: transformers 5, `PreTrainedTokenizerBase._from_pretrained`
 *
 * Throws `DONOR_CHAT_TEMPLATE` where there is none for conversations, or it fails, or takes more time or memory than it
 * may.
 */
export async function renderChat(
  model: ModelSource,
  tokenizer: TextTokenizer,
  messages: readonly ChatMessage[],
): Promise<string> {
  const templates = await findTemplates(model, tokenizer);
  const template = templates.get("default");
  if (template === undefined) {
    const names = [...templates.keys()];
    throw new PhysariumError(
      "DONOR_CHAT_TEMPLATE",
      names.length === 0
        ? `${model.place}: the model has no chat template; leave --chat away to continue the prompt as plain text`
        : `${model.place}: the model has chat templates for ${names.join(", ")}, and none named default; leave ` +
            "--chat away to continue the prompt as plain text",
      { path: model.place, names },
    );
  }
  try {
    return await tokenizer.render(template, {
      messages: [...messages],
      add_generation_prompt: true,
      bos_token: tokenizer.bos?.text ?? "",
      eos_token: tokenizer.eos?.text ?? "",
    });
  } catch (error) {
    if (!isPhysariumError(error, "DONOR_CHAT_TEMPLATE")) throw error;
    throw new PhysariumError(
      error.code,
      `${model.place}: the chat template failed: ${error.message}`,
      { path: model.place },
      error,
    );
  }
}

async function findTemplates(model: ModelSource, tokenizer: TextTokenizer): Promise<Templates> {
  const own = await readTemplateFiles(model);
  if (own.size > 0) return own;
  const configured = templatesIn(tokenizer.config.chat_template);
  if (configured.size > 0) return configured;
  return templatesIn((await readOptionalJson(model, "chat_template.json")).chat_template);
}

async function readTemplateFiles(model: ModelSource): Promise<Templates> {
  const templates = new Map<string, string>();
  const own = await readTemplateFile(model, "chat_template.jinja");
  if (own !== undefined) templates.set("default", own);
  const more = "additional_chat_templates";
  const names = (await model.list(more).catch(() => [])).map(({ name }) => name);
  for (const name of names.filter((file) => file.endsWith(".jinja")).sort()) {
    const text = await readTemplateFile(model, `${more}/${name}`);
    if (text !== undefined) templates.set(name.slice(0, -".jinja".length), text);
  }
  return templates;
}

async function readTemplateFile(model: ModelSource, file: string): Promise<string | undefined> {
  try {
    return new TextDecoder().decode(await readWhole(model, file));
  } catch (error) {
    if (isPhysariumError(error, "IO_NOT_FOUND")) return undefined;
    throw error;
  }
}

/** One template, or several by name: a list of `{name, template}`, or an object. */
function templatesIn(value: unknown): Templates {
  if (typeof value === "string") return new Map([["default", value]]);
  if (typeof value !== "object" || value === null) return new Map();
  const entries: unknown[][] = Array.isArray(value)
    ? (value as ({ name?: unknown; template?: unknown } | null)[]).map((entry) => [entry?.name, entry?.template])
    : Object.entries(value);
  const templates = new Map<string, string>();
  for (const [name, template] of entries) {
    if (typeof name === "string" && typeof template === "string") templates.set(name, template);
  }
  return templates;
}
