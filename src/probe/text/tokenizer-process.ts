import { Template } from "@huggingface/jinja";
import { isPhysariumError, PhysariumError } from "../../errors.js";
import { serveConfined } from "./serve-confined.js";
import type { Json, TokenizerAnswer, TokenizerJob } from "./tokenizer-protocol.js";
import { Vocabulary } from "./vocabulary.js";

/** A conversation as text has about the size of its messages; a template that writes more writes nonsense. */
const MAX_RENDERED_CHARACTERS = 1 << 22;

let vocabulary: Vocabulary | undefined;

async function handle(job: TokenizerJob): Promise<TokenizerAnswer> {
  if (job.kind === "load") {
    vocabulary = await Vocabulary.load(new TextDecoder().decode(job.definition), job.config);
    return vocabulary.facts();
  }
  if (vocabulary === undefined) throw new PhysariumError("INTERNAL", "a tokenizer was asked before it was loaded");
  if (job.kind === "encode") return vocabulary.encode(job.text);
  if (job.kind === "decode") return vocabulary.decode(job.ids);
  if (job.kind === "named") return vocabulary.named(job.text);
  if (job.kind === "token") return vocabulary.textOf(job.id);
  return render(job.template, job.context);
}

function render(template: string, context: Json): string {
  const text = new Template(template).render({ ...context });
  if (text.length <= MAX_RENDERED_CHARACTERS) return text;
  throw new PhysariumError("DONOR_CHAT_TEMPLATE", `it wrote ${text.length} characters`);
}

/** What a foreign file makes a library throw is that file's fault, not ours. */
serveConfined(async (job: TokenizerJob) => {
  try {
    return await handle(job);
  } catch (error) {
    if (isPhysariumError(error) || (error as NodeJS.ErrnoException).code === "ERR_SCRIPT_EXECUTION_TIMEOUT")
      throw error;
    const code = job.kind === "render" ? "DONOR_CHAT_TEMPLATE" : "DONOR_TOKENIZER";
    throw new PhysariumError(code, error instanceof Error ? error.message : String(error));
  }
});
