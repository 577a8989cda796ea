import { join } from "node:path";
import type { Command } from "commander";
import { InvalidArgumentError, Option } from "commander";
import type { Guarantee, Verification } from "../audit/verification.js";
import { verify } from "../audit/verify.js";
import type { ParityMode } from "../audit/weight-checks.js";
import { isPhysariumError, jsonLine, PhysariumError, printable } from "../errors.js";
import { FLOWS } from "../flow/flows.js";
import { isPackedFolder } from "../pack/manifest.js";
import { unpackedView } from "../pack/packed-files.js";
import { addSections } from "../report/documents.js";
import { toInteger, toWorkers } from "./arguments.js";
import { folderArgument } from "./model-argument.js";
import { createProgress, type ProgressStyle } from "./progress.js";
import { readKey } from "./sign.js";
import { stopSignal } from "./stop-signal.js";

interface Flags extends ProgressStyle {
  parity: ParityMode;
  seed?: number;
  expect?: string;
  publicKey?: string;
  record: boolean;
  workers?: number;
}

/** `physarium verify [donor] <output>` */
export function registerVerify(program: Command): void {
  program
    .command("verify")
    .description("re-read an output from disk and list everything that is not as it should be")
    .argument("<folders...>", "the donor and the output; or the output alone, to check it against its ledger's digests")
    .option(
      "--parity <mode>",
      "full does the operation over again, with the reference iteration on a sample; reference runs that on all " +
        "tiles; sample; none",
      toParity,
      "full",
    )
    .option("--seed <n>", "draw the sample from this seed, to repeat one (default: a fresh one, printed)", toSeed)
    .addOption(
      new Option("--expect <flow>", "fail where the ledger claims another flow").choices(FLOWS.map(({ name }) => name)),
    )
    .option("--public-key <file>", "fail where the output is not signed by its owner (physarium sign)")
    .option("--no-record", "do not add the result to the output's report")
    .option("--workers <n>", "worker threads", toWorkers)
    .option("--json", "the result as one JSON object")
    .option("--quiet", "print differences only")
    .addHelpText(
      "after",
      `
A packed folder (physarium pack) can stand for the output.
Exit code 0 when everything holds, 4 when anything differs; every difference is listed.

Examples:
  physarium verify ./model ./operated
  physarium verify ./model ./operated --expect magnitude
  physarium verify ./model ./operated --parity reference
  physarium verify ./operated
  physarium verify ./operated --public-key maker.pem.pub`,
    )
    .action(async (folders: string[], flags: Flags) => {
      if (folders.length > 2)
        throw new PhysariumError(
          "USAGE_ARGUMENT",
          `expected a donor and an output, found ${folders.length} folders; see physarium verify --help`,
        );
      const [outputPath, given] = [...folders].reverse();
      const donorPath = given === undefined ? undefined : await folderArgument(given, flags);
      const progress = createProgress("verify", flags);
      // A packed folder is read through a view that decodes it; the view lives in this thread.
      const packed = (await isPackedFolder(outputPath)) ? await unpackedView(outputPath) : undefined;
      let result: Verification;
      try {
        result = await verify(outputPath, {
          ...(donorPath === undefined ? {} : { donorPath }),
          parity: flags.parity,
          ...(flags.seed === undefined ? {} : { seed: flags.seed }),
          ...(flags.expect === undefined ? {} : { expect: flags.expect }),
          ...(flags.publicKey === undefined ? {} : { publicKey: await readKey(flags.publicKey) }),
          ...(packed === undefined ? {} : { files: packed.files, workers: 0 }),
          ...(flags.workers === undefined || packed !== undefined ? {} : { workers: flags.workers }),
          onProgress: (done, total) => progress.update(done, total),
          signal: stopSignal(),
        });
      } finally {
        progress.stop();
        await packed?.close();
      }
      if (donorPath !== undefined && packed === undefined && flags.record) await record(result, progress.note);
      process.stdout.write(flags.json ? jsonLine(result) : describe(result, flags.quiet ?? false));
      if (!result.ok) {
        const count = result.differences.length;
        throw new PhysariumError(
          "VERIFY_FAILED",
          `${result.output}: ${count} difference${count === 1 ? "" : "s"} found; do not use this output, operate again`,
          { differences: count },
        );
      }
    });
}

/**
 * Add the result to the report. The verdict does not depend on it: an output on a read-only disk can be verified, too.
 */
async function record(result: Verification, note: (line: string) => void): Promise<void> {
  const { tiles_checked, tiles_total, weights_checked, reference_tiles, mode } = result.parity;
  const integrity = {
    verified_at: new Date().toISOString(),
    ok: result.ok,
    checks: [...result.checks],
    difference_count: result.differences.length,
    parity: { mode, tiles_checked, tiles_total, weights_checked, reference_tiles },
  };
  try {
    await addSections(result.output, { integrity });
  } catch (error) {
    if (!isPhysariumError(error)) throw error;
    note(`the result could not be added to the report: ${error.message}`);
  }
}

function describe(result: Verification, quiet: boolean): string {
  const lines: string[] = [];
  if (!quiet) {
    const width = Math.max(...result.checks.map(({ name }) => name.length));
    for (const { name, ok, detail } of result.checks)
      lines.push(`${ok ? "ok  " : "FAIL"}  ${name.padEnd(width)}  ${printable(detail)}`);
  }
  for (const { check, where, message } of result.differences)
    lines.push(`difference [${check}] ${printable(where)}: ${printable(message)}`);
  if (!quiet && result.ok) {
    const rate = (result.bytes_read / 1e9 / result.wall_seconds).toFixed(2);
    const against =
      result.donor === undefined
        ? `its ledger alone (give the donor, too, to compare weights): ${join(result.output, "physarium/ledger.jsonl")}`
        : result.donor;
    lines.push(
      `guarantee: ${GUARANTEES[result.guarantee]}`,
      `${printable(result.output)} holds against ${printable(against)} (${result.wall_seconds.toFixed(1)} s, ` +
        `${rate} GB/s)`,
    );
  }
  return lines.length === 0 ? "" : `${lines.join("\n")}\n`;
}

function toParity(text: string): ParityMode {
  if (text === "full" || text === "sample" || text === "reference" || text === "none") return text;
  throw new InvalidArgumentError("Expected full, sample, reference or none.");
}

function toSeed(text: string): number {
  const seed = toInteger(text);
  if (seed < 0 || seed >= 2 ** 32) throw new InvalidArgumentError("Expected a whole number from 0 to 4294967295.");
  return seed;
}

/** What a verification that found nothing promises. */
const GUARANTEES: Record<Guarantee, string> = {
  exact: "exact: every byte is the donor's, or what the flow gives from it",
  sampled: "survivors and carried tensors exact, the mask on a sample of tiles",
  survivors: "survivors and carried tensors exact; whether the flow chose the zeros was not looked at",
  healed: "healed: mask counts, digests, output error; how far survivors moved is bounded, not derived again",
  digests: "digests: the files are those its ledger tells of; the donor was not compared",
};
