import { readFileSync } from "node:fs";
import type { ModelSource } from "../../checkpoint/model-source.js";
import { isPhysariumError } from "../../errors.js";
import { promptTokens } from "../../probe/generate.js";
import { renderChat } from "../../probe/text/chat-template.js";
import type { TextTokenizer } from "../../probe/text/tokenizer.js";
import { holds, parseAnchors } from "../config/anchors.js";
import type { Organ } from "../config/organ-farm.js";
import type { ChildBody } from "../engine/child-engine.js";
import type { ChatTurn } from "../engine/engine.js";
import { organAsk, organPrompt, readOrganTexts } from "../serve/organ-prompt.js";
import type { CheckRecord } from "./admission.js";

const GREEDY_TOKENS = 24;
const SAYING = "Once upon a time there was a little girl who liked to read.";
/** Letters, signs and marks of other scripts: where tokenizers differ first. */
const FOREIGN = "Zażółć gęślą jaźń, 東京 2026, emoji 🐝";

function record(check: string, fault: string | undefined, found: string): CheckRecord {
  return { check, passed: fault === undefined, found: fault ?? found };
}

/** The same prompt twice gives the same tokens, and no logit on the way is NaN or infinite. */
export async function checkDeterminism(body: ChildBody, prompts: readonly (readonly number[])[]): Promise<CheckRecord> {
  for (const ids of prompts) {
    const [first, second] = [await greedy(body, ids), await greedy(body, ids)];
    if (!first.finite || !second.finite) return record("finite", "a logit is NaN or infinite", "");
    if (first.ids.join() !== second.ids.join()) {
      return record("deterministic", `two runs differ: ${first.ids.join(" ")} and ${second.ids.join(" ")}`, "");
    }
  }
  return record("deterministic", undefined, `${prompts.length} prompts twice, the same tokens, every logit finite`);
}

function greedy(body: ChildBody, ids: readonly number[]): Promise<{ ids: number[]; finite: boolean }> {
  return body.call({
    what: "greedy",
    ids: [...ids],
    count: Math.min(GREEDY_TOKENS, body.spec.context - ids.length - 1),
  });
}

/**
 * The engine cuts text into our tokenizer's tokens, alone and within the model's chat template. Other scripts are
 * looked at as well, for a warning.
 */
export async function checkTokens(
  body: ChildBody,
  source: ModelSource,
  tokenizer: TextTokenizer,
  organs: readonly Organ[],
): Promise<{ readonly check: CheckRecord; readonly warnings: string[] }> {
  const conversations: ChatTurn[][] = [
    [{ role: "user", content: SAYING }],
    [
      { role: "user", content: SAYING },
      { role: "assistant", content: "And then?" },
      { role: "user", content: "She read on." },
    ],
    ...organs.flatMap(({ preamble }): ChatTurn[][] =>
      preamble === undefined
        ? []
        : [
            [
              { role: "system", content: preamble },
              { role: "user", content: SAYING },
            ],
          ],
    ),
  ];
  let compared = 0;
  for (const turns of conversations) {
    const ours = await ourTokens(source, tokenizer, turns, body.loaded.hasChatTemplate);
    // A template may refuse a kind of conversation; the engine will, too.
    if (ours === undefined) continue;
    const theirs = await body.call<number[]>({ what: "tokens", prompt: { turns, chatml: false } });
    const fault = differenceOf(ours, theirs);
    compared++;
    if (fault !== undefined) return { check: record("tokens", fault, ""), warnings: [] };
  }
  const plain = await promptTokens(tokenizer, FOREIGN);
  const foreign = differenceOf(plain, await body.call<number[]>({ what: "tokens", prompt: { text: FOREIGN } }));
  const what = body.loaded.hasChatTemplate
    ? "the model's chat template"
    : "plain text (the model has no chat template)";
  return {
    check: record("tokens", undefined, `${compared} conversations in ${what}, the same ids`),
    warnings: foreign === undefined ? [] : [`text of other scripts is cut otherwise by the engine: ${foreign}`],
  };
}

async function ourTokens(
  source: ModelSource,
  tokenizer: TextTokenizer,
  turns: readonly ChatTurn[],
  hasTemplate: boolean,
): Promise<number[] | undefined> {
  if (!hasTemplate) return promptTokens(tokenizer, turns.map(({ content }) => content).join("\n"));
  try {
    const text = await renderChat(source, tokenizer, turns);
    const ids = await tokenizer.encode(text);
    const { leading, bos } = tokenizer;
    return leading === undefined || (bos !== undefined && text.startsWith(bos.text)) ? ids : [leading.id, ...ids];
  } catch (error) {
    if (isPhysariumError(error, "DONOR_CHAT_TEMPLATE")) return undefined;
    throw error;
  }
}

function differenceOf(ours: readonly number[], theirs: readonly number[]): string | undefined {
  const at = ours.findIndex((id, place) => id !== theirs[place]);
  if (at < 0 && ours.length === theirs.length) return undefined;
  const place = at < 0 ? Math.min(ours.length, theirs.length) : at;
  const shown = (ids: readonly number[]): string => ids.slice(place, place + 4).join(" ") || "nothing";
  const counts = `(${ours.length} and ${theirs.length} in all)`;
  return `at token ${place} ours are ${shown(ours)}, the engine's ${shown(theirs)} ${counts}`;
}

/** Every anchor of every organ on the body: what was right for one may not break for its neighbour. */
export async function checkAnchors(body: ChildBody, organs: readonly Organ[]): Promise<CheckRecord[]> {
  const records: CheckRecord[] = [];
  for (const organ of organs) {
    if (organ.anchors === undefined) continue;
    const texts = readOrganTexts(organ);
    const { anchors } = parseAnchors(readFileSync(organ.anchors, "utf8"));
    let fault: string | undefined;
    for (const anchor of anchors) {
      const prompt = organPrompt(organ, texts, [{ role: "user", content: anchor.prompt }]);
      const ask = { ...organAsk(organ, texts, prompt), temperature: 0 };
      const { text } = await body.ask(ask, () => {}, new AbortController().signal);
      if (holds(anchor, text)) continue;
      const [must, said] = [JSON.stringify(anchor.must), JSON.stringify(text.slice(0, 160))];
      fault = `line ${anchor.line}: ${must} does not hold of ${said}`;
      break;
    }
    records.push(record(`anchors of ${organ.name}`, fault, `${anchors.length} of ${anchors.length}`));
  }
  return records;
}
