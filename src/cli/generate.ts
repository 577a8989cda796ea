import { resolve } from "node:path";
import type { Command } from "commander";
import { printable } from "../errors.js";
import { LayerRunner } from "../probe/forward/layer-runner.js";
import { DEFAULT_MAX_TOKENS, generateTokens, promptTokens, StreamDecoder, stopTokens } from "../probe/generate.js";
import { renderChat } from "../probe/text/chat-template.js";
import { TextTokenizer } from "../probe/text/tokenizer.js";
import { openSource } from "../sources.js";
import { toInteger, toNumber } from "./arguments.js";
import { modelArgument } from "./model-argument.js";
import { addEngineOptions, type EngineFlags, toEngineOptions } from "./probe-options.js";
import { endOnSignal } from "./stop-signal.js";

interface GenerateFlags extends EngineFlags {
  prompt: string;
  maxTokens: number;
  temperature: number;
  topP: number;
  seed: number;
  chat?: boolean;
  json?: boolean;
}

/** `physarium generate <model> --prompt TEXT` */
export function registerGenerate(program: Command): void {
  const command = program
    .command("generate")
    .description("continue a prompt, streaming: for looking at a model, not for serving it")
    .argument("<model>", "model folder with safetensors files")
    .requiredOption("--prompt <text>", "what to continue")
    .option("--max-tokens <n>", "at most so many tokens", toInteger, DEFAULT_MAX_TOKENS)
    .option("--temperature <t>", "0 takes the most likely token each time", toNumber, 0)
    .option("--top-p <p>", "sample from the smallest set of tokens of this probability", toNumber, 1)
    .option("--seed <n>", "same seed, same text", toInteger, 0)
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
      endOnSignal("nothing was written", flags.json);
      const source = await openSource(resolve(await modelArgument(modelPath, flags)));
      const tokenizer = await TextTokenizer.open(source);
      const prompt = flags.chat
        ? await tokenizer.encode(await renderChat(source, tokenizer, [{ role: "user", content: flags.prompt }]))
        : await promptTokens(tokenizer, flags.prompt);
      const runner = await LayerRunner.open(source, {
        ...toEngineOptions({ device: flags.device, threads: flags.threads, memory: flags.memory }),
        workload: { runs: flags.maxTokens, tokens: prompt.length },
      });
      const { maxTokens, temperature, topP, seed } = flags;
      const sampling = { maxTokens, temperature, topP, seed, stopIds: await stopTokens(source, tokenizer) };
      const ids: number[] = [];
      const decoder = await StreamDecoder.after(prompt, tokenizer);
      let text = flags.chat || flags.json ? "" : flags.prompt;
      const show = (piece: string): void => {
        text += piece;
        if (!flags.json) process.stdout.write(printable(piece, true));
      };
      const started = performance.now();
      try {
        if (text !== "") process.stdout.write(printable(text, true));
        for await (const { id } of generateTokens(runner, prompt, sampling)) {
          ids.push(id);
          show(await decoder.push(id));
        }
        show(await decoder.end());
      } finally {
        await runner.close();
        tokenizer.close();
        await source.close();
      }
      const seconds = (performance.now() - started) / 1000;
      process.stdout.write(
        flags.json
          ? `${JSON.stringify({ prompt: flags.prompt, prompt_tokens: prompt, tokens: ids, text, seconds })}\n`
          : "\n",
      );
      if (!flags.json) process.stderr.write(`${ids.length} tokens, ${(ids.length / seconds).toFixed(1)} a second\n`);
    });
}
