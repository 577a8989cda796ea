// What a method costs as donors grow: wall, processor and memory of each, by `physarium compare`, one process a row.
//
//   node bench/methods-cost.mjs <text> <donor…> [--samples 16] [--window 512] [--methods sparsegpt,activation,matched]
//
// Calibrates on the text (rows of WikiText) at 50 % and scores two windows only: this measures time, not quality. Prints a Markdown table, a line a donor and
// method, with each method's processor time over the first one's; the processor's seconds hardly change where other programs run, the wall does.
import { execFileSync } from "node:child_process";
import { loadavg } from "node:os";
import { basename, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const { openDonor } = await import(pathToFileURL(join(ROOT, "dist/index.js")).href);
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    samples: { type: "string", default: "16" },
    window: { type: "string", default: "512" },
    methods: { type: "string", default: "sparsegpt,activation,matched" },
  },
});
const [text, ...donors] = positionals;
if (donors.length === 0) throw new Error("usage: node bench/methods-cost.mjs <text> <donor…>");

console.log(
  "| donor | weights | tokens | method | wall, s | processor, s | times the first | peak memory, MiB | load |",
);
console.log("|---|--:|--:|---|--:|--:|--:|--:|--:|");
for (const donor of donors) {
  const { modelWeights } = await openDonor(donor);
  let first;
  for (const method of values.methods.split(",")) {
    const args = ["compare", donor, "--text", text, "--calibration", text, "--rows", "--sparsity", "0.5", "--json"];
    args.push("--samples", values.samples, "--window", values.window, "--limit", "2", "--methods", method);
    const printed = execFileSync(process.execPath, [join(ROOT, "dist/cli/main.js"), ...args], {
      encoding: "utf8",
      maxBuffer: 1 << 28,
      stdio: ["ignore", "pipe", "ignore"],
    });
    const { calibration, rows } = JSON.parse(printed);
    const [{ seconds, processor_seconds: processor, peak_rss_bytes: peak }] = rows;
    first ??= processor;
    const cells = [
      basename(donor),
      modelWeights.toLocaleString("en-US"),
      calibration.tokens.toLocaleString("en-US"),
      method,
      seconds.toFixed(1),
      processor.toFixed(1),
      (processor / first).toFixed(2),
      (peak / 2 ** 20).toFixed(0),
      loadavg()[0].toFixed(1),
    ];
    console.log(`| ${cells.join(" | ")} |`);
  }
}
