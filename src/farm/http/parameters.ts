import { PhysariumError } from "../../errors.js";
import type { ChatTurn } from "../engine/engine.js";
import type { Question } from "../serve/answer.js";
import { schemaRefusal } from "../verify/json-verifiers.js";

type Json = Readonly<Record<string, unknown>>;

/** What a request says, in the farm's words. */
export interface Parsed {
  readonly model: string;
  readonly prompt: Question["prompt"];
  readonly settings: Question["settings"];
  readonly format: Question["format"];
  readonly stream: boolean;
  readonly includeUsage: boolean;
  /** Labels that change nothing; they are named in the answer. */
  readonly noEffect: readonly string[];
}

const COMMON = ["model", "max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "stream"];
const KNOWN = {
  chat: [...COMMON, "messages", "max_completion_tokens", "response_format", "stream_options"],
  completion: [...COMMON, "prompt", "response_format", "stream_options"],
};
/** Labels for the client's own books. */
const LABELS = ["user", "metadata", "store", "safety_identifier", "prompt_cache_key"];
/** Parameters that ask for nothing when they say one of these. */
const NEUTRAL: Readonly<Record<string, readonly unknown[]>> = {
  n: [1],
  best_of: [1],
  frequency_penalty: [0],
  presence_penalty: [0],
  logprobs: [false],
  echo: [false],
  suffix: [""],
  tools: [[]],
  tool_choice: ["none", "auto"],
  functions: [[]],
  function_call: ["none", "auto"],
  parallel_tool_calls: [true, false],
  logit_bias: [{}],
  modalities: [["text"]],
  service_tier: ["auto", "default"],
};

/** Throws `USAGE_PARAMETER` with `param`: what is unknown, unsupported or out of range is said, not ignored. */
export function parseRequest(value: unknown, kind: "chat" | "completion"): Parsed {
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw refuse("", "the body must be a JSON object");
  const json = value as Json;
  const noEffect: string[] = [];
  for (const [name, given] of Object.entries(json)) {
    if (KNOWN[kind].includes(name) || given === null || given === undefined) continue;
    if (LABELS.includes(name)) noEffect.push(name);
    else if (!isNeutral(name, given)) {
      throw refuse(
        name,
        `"${name}" is not supported; supported are ${KNOWN[kind].join(", ")}`,
        "unsupported_parameter",
      );
    }
  }
  if (typeof json.model !== "string" || json.model === "") throw refuse("model", "model must name an organ or a body");
  const { max_tokens: older, max_completion_tokens: newer } = json;
  if (older != null && newer != null && older !== newer)
    throw refuse("max_tokens", "max_tokens and max_completion_tokens say different things; give one of them");
  const stream = flag("stream", json.stream);
  const options = partOf("stream_options", json.stream_options, ["include_usage"]);
  if (json.stream_options != null && !stream)
    throw refuse("stream_options", "stream_options is for streams: set stream to true, or leave it out");
  return {
    model: json.model,
    prompt: kind === "chat" ? { turns: turnsOf(json.messages) } : { text: textOf(json.prompt) },
    settings: {
      ...number(
        newer == null ? "max_tokens" : "max_completion_tokens",
        newer ?? older,
        1,
        1_000_000,
        true,
        "maxTokens",
      ),
      ...number("temperature", json.temperature, 0, 2, false, "temperature"),
      ...number("top_p", json.top_p, 0, 1, false, "topP"),
      ...number("top_k", json.top_k, 0, 1_000_000, true, "topK"),
      ...number("min_p", json.min_p, 0, 1, false, "minP"),
      ...number("seed", json.seed, 0, 2 ** 32 - 1, true, "seed"),
      ...stops(json.stop),
    },
    format: formatOf(json.response_format),
    stream,
    includeUsage: flag("stream_options.include_usage", options.include_usage),
    noEffect,
  };
}

function isNeutral(name: string, given: unknown): boolean {
  const neutral = Object.hasOwn(NEUTRAL, name) ? NEUTRAL[name] : [];
  return neutral.some((each) => JSON.stringify(each) === JSON.stringify(given));
}

/** An object within a request, with the words that are known of it and no others; nothing where there is none. */
function partOf(where: string, value: unknown, known: readonly string[]): Json {
  if (value === undefined || value === null) return {};
  if (typeof value !== "object" || Array.isArray(value)) throw refuse(where, `${where} must be an object`);
  const extra = Object.keys(value).find((key) => !known.includes(key) && (value as Json)[key] != null);
  if (extra === undefined) return value as Json;
  const words = `"${where}.${extra}" is not supported; supported are ${known.join(", ")}`;
  throw refuse(`${where}.${extra}`, words, "unsupported_parameter");
}

function turnsOf(messages: unknown): ChatTurn[] {
  if (!Array.isArray(messages) || messages.length === 0)
    throw refuse("messages", "messages must be a list with a message in it");
  return messages.map((given: unknown, at) => {
    const where = `messages[${at}]`;
    const message = partOf(where, given, ["role", "content"]);
    const role = message.role === "developer" ? "system" : message.role;
    if (role !== "system" && role !== "user" && role !== "assistant") {
      throw refuse(`${where}.role`, `${where}.role must be system, developer, user or assistant`);
    }
    return { role, content: contentOf(message.content, where) };
  });
}

function contentOf(content: unknown, where: string): string {
  if (typeof content === "string") return content;
  const parts = Array.isArray(content) ? (content as (Json | null)[]) : [];
  const other = parts.find((part) => part?.type !== "text" || typeof part.text !== "string");
  if (parts.length === 0 || other !== undefined) {
    throw refuse(`${where}.content`, `${where}.content must be text, or parts of text: nothing else is supported`);
  }
  return parts.map((part, at) => partOf(`${where}.content[${at}]`, part, ["type", "text"]).text as string).join("");
}

function textOf(prompt: unknown): string {
  if (typeof prompt === "string") return prompt;
  if (Array.isArray(prompt) && prompt.length === 1 && typeof prompt[0] === "string") return prompt[0];
  throw refuse("prompt", "prompt must be one text");
}

function number(param: string, value: unknown, least: number, most: number, whole: boolean, name: string): object {
  if (value === undefined || value === null) return {};
  const isNumber = typeof value === "number" && Number.isFinite(value) && (!whole || Number.isInteger(value));
  if (isNumber && value >= least && value <= most) return { [name]: value };
  throw refuse(param, `${param} must be a ${whole ? "whole number" : "number"} from ${least} to ${most}`);
}

function stops(value: unknown): { stop?: string[] } {
  if (value === undefined || value === null) return {};
  const stop = Array.isArray(value) ? value : [value];
  if (stop.length <= 16 && stop.every((each) => typeof each === "string" && each !== ""))
    return { stop: stop as string[] };
  throw refuse("stop", "stop must be a text, or at most 16 of them, none empty");
}

function flag(param: string, value: unknown): boolean {
  if (value === undefined || value === null) return false;
  if (typeof value === "boolean") return value;
  throw refuse(param, `${param} must be true or false`);
}

function formatOf(value: unknown): Question["format"] {
  if (value === undefined || value === null) return undefined;
  const { type, json_schema: named } = partOf("response_format", value, ["type", "json_schema"]);
  if (type !== "json_schema" && named != null)
    throw refuse("response_format", 'response_format.json_schema is read where type is "json_schema"');
  if (type === "text") return undefined;
  if (type === "json_object") return "json";
  if (type !== "json_schema")
    throw refuse("response_format", "response_format.type must be text, json_object or json_schema");
  // Answers are held to a schema and checked against it, whatever `strict` says; the other two are labels.
  const { schema } = partOf("response_format.json_schema", named, ["name", "description", "schema", "strict"]);
  if (typeof schema !== "object" || schema === null)
    throw refuse("response_format", "response_format.json_schema.schema is missing");
  const refusal = schemaRefusal(schema);
  if (refusal !== undefined) throw refuse("response_format", refusal);
  return { schema };
}

function refuse(param: string, message: string, code = "invalid_value"): PhysariumError {
  return new PhysariumError("USAGE_PARAMETER", message, { param, code });
}
