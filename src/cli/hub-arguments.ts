import type { Command } from "commander";
import { isHubAddress, parseHubAddress } from "../hub/address.js";
import { readHubEnvironment } from "../hub/environment.js";
import { fetchModel } from "../hub/fetch-model.js";
import { HubClient } from "../hub/hub-client.js";
import { createProgress, type ProgressStyle } from "./progress.js";

/** Arguments and options of all commands that take a model folder. */
const MODEL_ARGUMENTS = new Set(["donor", "model"]);
const MODEL_OPTIONS = ["against"];

/**
 * Let every command take `hf://org/name` where it takes a model folder: before it runs, the model is fetched into the
 * cache (or found there), and its folder
 * put in the address's place.
 */
export function takeHubAddresses(program: Command): void {
  program.hook("preAction", async (_, command) => {
    if (command.name() === "fetch") return;
    const style: ProgressStyle = command.opts();
    for (const [at, argument] of command.registeredArguments.entries()) {
      const text: unknown = command.processedArgs[at];
      if (MODEL_ARGUMENTS.has(argument.name()) && typeof text === "string") {
        command.processedArgs[at] = await localFolder(text, style);
      }
    }
    for (const name of MODEL_OPTIONS) {
      const text: unknown = command.getOptionValue(name);
      if (typeof text === "string") command.setOptionValue(name, await localFolder(text, style));
    }
  });
}

async function localFolder(text: string, style: ProgressStyle): Promise<string> {
  if (!isHubAddress(text)) return text;
  const progress = createProgress(`fetching ${text}`, style);
  const stop = new AbortController();
  const onSignal = () => stop.abort();
  process.once("SIGINT", onSignal).once("SIGTERM", onSignal);
  try {
    const client = new HubClient(readHubEnvironment(), {
      signal: stop.signal,
      onRetry: (line) => progress.note(line),
    });
    const { folder } = await fetchModel(parseHubAddress(text), {
      client,
      signal: stop.signal,
      onProgress: (done, total, file) => progress.update(done, total, file),
    });
    return folder;
  } finally {
    progress.stop();
    process.off("SIGINT", onSignal).off("SIGTERM", onSignal);
  }
}
