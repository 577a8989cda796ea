import { resolve } from "node:path";
import { createInterface } from "node:readline";
import type { Command } from "commander";
import { isPhysariumError, printable } from "../errors.js";
import { DEFAULT_MAX_TOKENS } from "../probe/generate.js";
import type { ChatMessage } from "../probe/text/chat-template.js";
import { toInteger, toNumber } from "./arguments.js";
import { modelArgument } from "./model-argument.js";
import { addEngineOptions, type EngineFlags } from "./probe-options.js";
import { Speaker } from "./speaker.js";
import { endOnSignal } from "./stop-signal.js";

interface ChatFlags extends EngineFlags {
  system?: string;
  maxTokens: number;
  temperature: number;
  topP: number;
  seed: number;
  json?: boolean;
  quiet?: boolean;
}

/** `physarium chat <model>` */
export function registerChat(program: Command): void {
  const command = program
    .command("chat")
    .description("talk with a model, several turns with their history, in its own chat template")
    .argument("<model>", "model folder with safetensors files, or a packed one")
    .option("--system <text>", "what the model is told before the first turn")
    .option("--max-tokens <n>", "tokens of one answer, at most", toInteger, DEFAULT_MAX_TOKENS)
    .option("--temperature <t>", "0 takes the most likely token each time", toNumber, 0)
    .option("--top-p <p>", "sample from the smallest set of tokens of this probability", toNumber, 1)
    .option("--seed <n>", "same seed, same answers", toInteger, 0);
  addEngineOptions(command)
    .addHelpText(
      "after",
      `
A line is a turn; from a pipe, too. /reset forgets the conversation, /undo the last turn, /exit or Ctrl-D ends. With
--json the whole conversation is printed at the end.

Examples:
  physarium chat ./model
  printf 'My name is Ada.\\nWhat is my name?\\n' | physarium chat ./operated --json`,
    )
    .action(async (modelPath: string, flags: ChatFlags) => {
      endOnSignal("nothing was written");
      const folder = resolve(await modelArgument(modelPath, flags));
      const say = flags.quiet || flags.json ? () => {} : (line: string) => process.stderr.write(`${printable(line)}\n`);
      const speaker = await Speaker.open(folder, flags, flags.maxTokens);
      try {
        const turns = await converse(speaker, flags, say);
        if (flags.json) process.stdout.write(`${JSON.stringify({ messages: turns.messages, turns: turns.figures })}\n`);
      } finally {
        await speaker.close();
      }
    });
}

interface Conversation {
  messages: ChatMessage[];
  figures: { readonly prompt_tokens: number; readonly tokens: number; readonly seconds: number }[];
}

/** Turns until the input ends. A turn that the model cannot take (too long) is said and left out. */
async function converse(speaker: Speaker, flags: ChatFlags, say: (line: string) => void): Promise<Conversation> {
  const start: ChatMessage[] = flags.system === undefined ? [] : [{ role: "system", content: flags.system }];
  const held: Conversation = { messages: [...start], figures: [] };
  // Before the first question: a model without a template is refused at once.
  await speaker.conversation([...start, { role: "user", content: "?" }]);
  const isTerminal = process.stdin.isTTY === true && !flags.json;
  if (isTerminal) say("a line is a turn; /reset, /undo, /exit");
  const lines = createInterface({
    input: process.stdin,
    ...(isTerminal ? { output: process.stderr, prompt: "> " } : {}),
  });
  const show = (piece: string): void => {
    if (!flags.json) process.stdout.write(printable(piece, true));
  };
  const { maxTokens, temperature, topP, seed } = flags;
  if (isTerminal) lines.prompt();
  for await (const line of lines) {
    const text = line.trim();
    if (text === "/exit") break;
    if (text === "/reset") held.messages = [...start];
    else if (text === "/undo") held.messages = held.messages.slice(0, Math.max(start.length, held.messages.length - 2));
    else if (text !== "") {
      const asked: ChatMessage[] = [...held.messages, { role: "user", content: text }];
      if (!isTerminal) show(`> ${text}\n`);
      try {
        const prompt = await speaker.conversation(asked);
        const {
          ids,
          text: answer,
          seconds,
        } = await speaker.speak(prompt, { maxTokens, temperature, topP, seed }, show);
        show("\n");
        held.messages = [...asked, { role: "assistant", content: answer.trim() }];
        held.figures.push({ prompt_tokens: prompt.length, tokens: ids.length, seconds });
      } catch (error) {
        if (!isPhysariumError(error, "USAGE_PROMPT")) throw error;
        say(`${error.message}; /reset begins anew`);
        if (!isTerminal) throw error;
      }
    }
    if (isTerminal) lines.prompt();
  }
  lines.close();
  return held;
}
