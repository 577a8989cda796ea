import { resolve } from "node:path";
import type { Command } from "commander";
import { jsonLine, printable } from "../errors.js";
import { checkPush, type PushFlags, pushedLine, pushJson } from "./push-options.js";
import { stopSignal } from "./stop-signal.js";

interface Flags extends PushFlags {
  dryRun?: boolean;
  json?: boolean;
  quiet?: boolean;
}

/** `physarium push <folder> org/name` */
export function registerPush(program: Command): void {
  program
    .command("push")
    .description("send a model folder to the Hub: large files by their hash, one commit, a model card, read back")
    .argument("<folder>", "folder that surgery, pack, export or import wrote, or a single GGUF file")
    .argument("<org/name>", "repository on the Hub; made where there is none")
    .option("--private", "a repository that is made is private")
    .option("--pr", "as a pull request")
    .option("--dry-run", "print what would go, ask nothing of the Hub")
    .option("--json", "the result as one JSON object")
    .option("--quiet", "no progress")
    .addHelpText(
      "after",
      `
Needs a token with the right to write (HF_TOKEN). A push that breaks goes on: what is up stands in <folder>.push.jsonl.
Of an operated folder the model card is made of its records, the donor's becomes README.donor.md. The records in
physarium/ go along; they name paths of this machine.

Example:
  physarium push ./operated me/model-operated --dry-run`,
    )
    .action(async (folder: string, target: string, flags: Flags) => {
      const repository = checkPush({ ...flags, push: target })!;
      const place = resolve(folder);
      const { ModelPush, wouldPush } = await import("./push-model.js");
      if (flags.dryRun) {
        const files = await wouldPush(place);
        const bytes = files.reduce((sum, { byteLength }) => sum + byteLength, 0);
        if (flags.json) {
          const list = files.map(({ path, byteLength }) => ({ path, byte_length: byteLength }));
          process.stdout.write(jsonLine({ repository, dry_run: true, files: list, bytes }));
        } else {
          for (const { path, byteLength } of files) {
            process.stdout.write(`${byteLength.toLocaleString("en-US").padStart(16)}  ${printable(path)}\n`);
          }
          process.stdout.write(`${files.length} files, ${bytes.toLocaleString("en-US")} bytes, to ${repository}\n`);
        }
        return;
      }
      const push = await ModelPush.open(repository, place, flags, flags, stopSignal());
      const result = await push.finish("Upload with physarium");
      process.stdout.write(flags.json ? jsonLine({ repository, ...pushJson(result).push }) : pushedLine(result));
    });
}
