import { readFileSync } from "node:fs";
import type { Organ } from "../config/organ-farm.js";
import { fillTemplate } from "../config/prompt-template.js";
import { type Ask, type ChatTurn, greedyAsk } from "../engine/engine.js";

/** An organ with the texts that its file names, read once. */
export interface OrganTexts {
  readonly template: string | undefined;
  readonly schema: unknown;
}

/** Throws what reading a file throws; `farm check` has said so before. */
export function readOrganTexts({ promptTemplate, schema }: Organ): OrganTexts {
  return {
    template: promptTemplate === undefined ? undefined : readFileSync(promptTemplate, "utf8"),
    schema: schema === undefined ? undefined : JSON.parse(readFileSync(schema, "utf8")),
  };
}

/**
 * A conversation as the organ puts it: its preamble first, the last thing that the user said within its template, in
 * ChatML, the model's own template or as plain text.
 */
export function organPrompt(organ: Organ, texts: OrganTexts, turns: readonly ChatTurn[]): Ask["prompt"] {
  const last = turns.findLastIndex(({ role }) => role === "user");
  const filled = turns.map((turn, at) => (at === last ? { ...turn, content: fill(organ, texts, turn.content) } : turn));
  const { preamble } = organ;
  const all: ChatTurn[] = preamble === undefined ? filled : [{ role: "system", content: preamble }, ...filled];
  if (organ.useChatml === false) return { text: all.map(({ content }) => content).join("\n") };
  return { turns: all, chatml: organ.useChatml === true };
}

/** A text to be continued, without any conversation around it. */
export function organText(organ: Organ, texts: OrganTexts, prompt: string): Ask["prompt"] {
  const text = fill(organ, texts, prompt);
  return { text: organ.preamble === undefined ? text : `${organ.preamble}\n${text}` };
}

function fill(organ: Organ, { template, schema }: OrganTexts, input: string): string {
  if (template === undefined) return input;
  return fillTemplate(template, {
    input,
    preamble: organ.preamble ?? "",
    schema: schema === undefined ? "" : JSON.stringify(schema),
    organ: organ.name,
    body: organ.body,
  });
}

/** What the organ's answers are held to while they are made. */
function organGrammar({ jsonOut, verifier }: Organ, { schema }: OrganTexts): Ask["grammar"] {
  if (verifier === "json_schema" && schema !== undefined) return { schema };
  return jsonOut || verifier === "json_strict" ? "json" : undefined;
}

/** The organ's own settings, which a request may change. */
export function organAsk(organ: Organ, texts: OrganTexts, prompt: Ask["prompt"]): Ask {
  return {
    ...greedyAsk(prompt, organ.maxTokens),
    temperature: organ.temperature,
    stop: organ.stop,
    grammar: organGrammar(organ, texts),
  };
}
