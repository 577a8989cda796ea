import type { Command } from "commander";
import { jsonLine, PhysariumError, printable } from "../errors.js";
import { isHubAddress, looksLikeRepository } from "../hub/address.js";

interface Flags {
  json?: boolean;
  quiet?: boolean;
}

/** `physarium fetch hf://org/name` */
export function registerFetch(program: Command): void {
  program
    .command("fetch")
    .description("fetch a model from the Hub into the cache that Python's client uses, every file proven by its hash")
    .argument("<address>", "hf://org/name, with @revision and /subfolder where wanted")
    .option("--json", "the result as one JSON object")
    .option("--quiet", "no progress")
    .addHelpText(
      "after",
      `
What is there already is not fetched again; a stopped fetch goes on where it stood. The environment is that of other
clients: HF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_HUB_OFFLINE, HTTPS_PROXY. Weights in other formats
(*.bin, *.gguf, onnx/, original/) are left out.

Example:
  physarium fetch hf://HuggingFaceTB/SmolLM2-135M
  physarium plan "$(physarium fetch hf://HuggingFaceTB/SmolLM2-135M --quiet)"`,
    )
    .action(async (text: string, flags: Flags) => {
      if (!isHubAddress(text) && looksLikeRepository(text)) {
        throw new PhysariumError("USAGE_HUB_ADDRESS", `${text}: did you mean hf://${text}?`, { address: text });
      }
      const { fetchWithProgress } = await import("./hub-model.js");
      const { folder, commit, files, bytesTotal, bytesFetched } = await fetchWithProgress(text, flags);
      process.stdout.write(
        flags.json
          ? jsonLine({ folder, commit, files, bytes_total: bytesTotal, bytes_fetched: bytesFetched })
          : `${printable(folder)}\n`,
      );
    });
}
