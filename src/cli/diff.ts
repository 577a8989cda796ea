import { resolve } from "node:path";
import type { Command } from "commander";
import { openDonor } from "../checkpoint/donor.js";
import { diffModels } from "../diff/diff-models.js";
import { jsonLine, PhysariumError } from "../errors.js";
import { renderDiff, renderDiffHtml } from "../report/diff.js";
import { counted } from "../report/number-words.js";
import { openSource } from "../sources.js";
import { folderArgument } from "./model-argument.js";
import { writePage } from "./page-file.js";
import { createProgress } from "./progress.js";
import { endOnSignal } from "./stop-signal.js";

interface Flags {
  html?: string;
  overwrite?: boolean;
  exitCode?: boolean;
  json?: boolean;
  quiet?: boolean;
}

/** `physarium diff <a> <b>` */
export function registerDiff(program: Command): void {
  program
    .command("diff")
    .description(
      "compare any two checkpoints tensor by tensor: equal, changed, missing; zeros, RMS, largest difference",
    )
    .argument("<a>", "model folder, a packed one, or hf://…")
    .argument("<b>", "the other")
    .option("--html <file>", "write the comparison as a page, too")
    .option("--overwrite", "replace the page where it stands already")
    .option("--exit-code", "exit 4 where anything differs")
    .addHelpText(
      "after",
      `
Tensors are matched by name, however they are spread over files; floats are compared by value, also BF16 with F32.
RMS and the largest difference are of B − A; "relative" is ‖B − A‖ / ‖A‖.

Examples:
  physarium diff ./model ./operated
  physarium diff ./model ./imported --html diff.html
  physarium diff ./a ./b --exit-code --quiet && echo same`,
    )
    .action(async (a: string, b: string, flags: Flags) => {
      endOnSignal("nothing was written");
      const progress = createProgress("diff", flags);
      const open = async (given: string) => openDonor(await openSource(resolve(await folderArgument(given, flags))));
      const [left, right] = [await open(a), await open(b)];
      const diff = await diffModels(left, right, {
        onProgress: (done, total, name) => progress.update(done, total, name),
      }).finally(() => progress.stop());
      if (flags.html !== undefined) {
        await writePage(resolve(flags.html), renderDiffHtml(diff), {
          overwrite: flags.overwrite ?? false,
          inputs: [left.path, right.path],
        });
      }
      const count = (all: readonly { state: string }[], one: string): string[] => {
        const others = all.filter(({ state }) => state !== "equal").length;
        return others === 0 ? [] : [counted(others, one)];
      };
      const differing = [...count(diff.tensors, "tensor"), ...count(diff.files, "side file")];
      if (flags.json) process.stdout.write(jsonLine(diff));
      else if (!flags.quiet) process.stdout.write(renderDiff(diff));
      if (flags.exitCode && differing.length > 0) {
        throw new PhysariumError("VERIFY_DIFFERENT", `${a} and ${b} differ: ${differing.join(", ")}`, {});
      }
    });
}
