import { resolve } from "node:path";
import type { Command } from "commander";
import { printable } from "../errors.js";
import { DEFAULT_MAX_TOKENS } from "../probe/generate.js";
import { toInteger, toNumber } from "./arguments.js";
import { modelArgument } from "./model-argument.js";
import { addEngineOptions, type EngineFlags } from "./probe-options.js";
import { Speaker, type Spoken } from "./speaker.js";
import { endOnSignal } from "./stop-signal.js";

interface GenerateFlags extends EngineFlags {
  prompt: string;
  maxTokens: number;
  temperature: number;
  topP: number;
  seed: number;
  chat?: boolean;
  bos: boolean;
  json?: boolean;
  quiet?: boolean;
}

/** `physarium generate <model> --prompt TEXT` */
export function registerGenerate(program: Command): void {
  const command = program
    .command("generate")
    .description("continue a prompt, streaming: for looking at a model, not for serving it")
    .argument("<model>", "model folder with safetensors files, or a packed one")
    .requiredOption("--prompt <text>", "what to continue")
    .option("--max-tokens <n>", "at most so many tokens", toInteger, DEFAULT_MAX_TOKENS)
    .option("--temperature <t>", "0 takes the most likely token each time", toNumber, 0)
    .option("--top-p <p>", "sample from the smallest set of tokens of this probability", toNumber, 1)
    .option("--seed <n>", "same seed, same text", toInteger, 0)
    .option("--no-bos", "do not begin with the token that the tokenizer puts in front")
    .option("--chat", "the prompt is a user's message, put into the model's chat template");
  addEngineOptions(command)
    .option("--json", "text and token ids as one JSON object, at the end")
    .addHelpText(
      "after",
      `
Examples:
  physarium generate ./model --prompt "Once upon a time"
  physarium generate ./model --chat --prompt "Why is the sky blue?" --temperature 0.7 --top-p 0.9 --seed 1`,
    )
    .action(async (modelPath: string, flags: GenerateFlags) => {
      endOnSignal("nothing was written");
      const { maxTokens, temperature, topP, seed, json, quiet, chat } = flags;
      const folder = resolve(await modelArgument(modelPath, flags));
      const show = (piece: string): void => {
        if (!json) process.stdout.write(printable(piece, true));
      };
      const speaker = await Speaker.open(folder, flags, maxTokens);
      let spoken: Spoken;
      try {
        const prompt = chat
          ? await speaker.conversation([{ role: "user", content: flags.prompt }])
          : await speaker.plain(flags.prompt, flags.bos);
        if (!chat) show(flags.prompt);
        spoken = await speaker.speak(prompt, { maxTokens, temperature, topP, seed }, show);
      } finally {
        await speaker.close();
      }
      const { prompt, ids, text, seconds } = spoken;
      process.stdout.write(
        json
          ? `${JSON.stringify({ prompt: flags.prompt, prompt_tokens: prompt, tokens: ids, text, seconds })}\n`
          : "\n",
      );
      if (!json && !quiet)
        process.stderr.write(`${ids.length} tokens, ${(ids.length / seconds).toFixed(1)} a second\n`);
    });
}
