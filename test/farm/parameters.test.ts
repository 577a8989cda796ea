import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { parseRequest } from "../../dist/farm/http/parameters.js";

/** What the client of OpenAI's package knows to say, from its own types. */
function parametersOf(file: string, name: string): string[] {
  const text = readFileSync(new URL(`../../node_modules/openai/resources/${file}.d.ts`, import.meta.url), "utf8");
  const [, inside] = text.split(`export interface ${name} {\n`);
  const own = inside.slice(0, inside.indexOf("\n}\n"));
  return [...own.matchAll(/^ {4}([a-z_]+)\??:/gm)].map(([, parameter]) => parameter);
}

const chat = { model: "m", messages: [{ role: "user", content: "hi" }] };
const completion = { model: "m", prompt: "hi" };

/** What becomes of a request that says `value` of a parameter: refused by its name, said to have no effect, or read. */
function fateOf(kind: "chat" | "completion", parameter: string, value: unknown): string {
  try {
    const request = { ...(kind === "chat" ? chat : completion), [parameter]: value };
    return parseRequest(request, kind).noEffect.includes(parameter) ? "said" : "taken";
  } catch (error) {
    const { param } = (error as { details: { param: string } }).details;
    return param === parameter || param.startsWith(`${parameter}.`) ? "refused" : `refused as ${param}`;
  }
}

test.each([
  ["chat", "chat/completions/completions", "ChatCompletionCreateParamsBase", 30],
  ["completion", "completions", "CompletionCreateParamsBase", 12],
] as const)("%s: nothing that OpenAI's client can say is ignored without a word", (kind, file, name, least) => {
  const parameters = parametersOf(file, name);
  expect(parameters.length).toBeGreaterThan(least);
  // No parameter means this; a label may be anything.
  const fates = new Map(parameters.map((parameter) => [parameter, fateOf(kind, parameter, { x: 1 })]));
  const taken = [...fates].filter(([, fate]) => !["refused", "said"].includes(fate));
  expect(taken).toEqual([]);
  expect([...fates].filter(([, fate]) => fate === "said").map(([parameter]) => parameter)).toContain("user");
});

test.each([
  ["n", 1, 2],
  ["frequency_penalty", 0, 0.5],
  ["logprobs", false, true],
  ["tools", [], [{ type: "function" }]],
  ["tool_choice", "none", "required"],
  ["modalities", ["text"], ["text", "audio"]],
  ["logit_bias", {}, { 5: 1 }],
  ["constructor", null, "x"],
])("%s: what asks for nothing passes, what asks for something is refused by name", (parameter, nothing, something) => {
  expect(fateOf("chat", parameter, nothing)).toBe("taken");
  expect(fateOf("chat", parameter, something)).toBe("refused");
});

test("what stands deeper is not ignored either, and two words for one thing must agree", () => {
  const paramOf = (more: object): unknown => {
    try {
      parseRequest({ ...chat, ...more }, "chat");
    } catch (error) {
      return (error as { details: { param: string } }).details.param;
    }
    return undefined;
  };
  expect(paramOf({ max_tokens: 5, max_completion_tokens: 6 })).toBe("max_tokens");
  expect(paramOf({ max_tokens: 5, max_completion_tokens: 5 })).toBe(undefined);
  expect(paramOf({ stream_options: { include_usage: true } })).toBe("stream_options");
  expect(paramOf({ stream: true, stream_options: { include_usage: true } })).toBe(undefined);
  expect(paramOf({ stream: true, stream_options: { include_obfuscation: true } })).toBe(
    "stream_options.include_obfuscation",
  );
  expect(paramOf({ messages: [{ role: "user", content: "x", name: "Ann" }] })).toBe("messages[0].name");
  const cached = [{ type: "text", text: "x", cache_control: { type: "ephemeral" } }];
  expect(paramOf({ messages: [{ role: "user", content: cached }] })).toBe("messages[0].content[0].cache_control");
  expect(paramOf({ response_format: { type: "json_object", json_schema: { schema: {} } } })).toBe("response_format");
  const schema = { name: "x", description: "y", strict: true, schema: { type: "object" } };
  expect(paramOf({ response_format: { type: "json_schema", json_schema: schema } })).toBe(undefined);
  expect(paramOf({ response_format: { type: "json_schema", json_schema: { ...schema, more: 1 } } })).toBe(
    "response_format.json_schema.more",
  );
  expect(paramOf({ response_format: "json" })).toBe("response_format");
  expect(paramOf({ messages: ["hi"] })).toBe("messages[0]");
});
