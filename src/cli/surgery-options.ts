import type { Command } from "commander";
import { FLOWS } from "../flow/flows.js";
import { DEFAULT_PARAMS } from "../flow/params.js";
import type { ProtocolOptions } from "../probe/text/protocols.js";
import type { SurgeryOptions } from "../surgery/options.js";
import { toGibibytes, toInteger, toNumber, toThreads, toWorkers } from "./arguments.js";
import { toDeviceOptions, toProtocolOptions } from "./probe-options.js";

/** The options that surgery and plan share. */
export interface SurgeryFlags {
  flow: string;
  blockSize?: number;
  nIter?: number;
  beta?: number;
  survival?: number;
  targetSparsity?: number;
  include?: string;
  exclude?: string;
  workers?: number;
  allowNonFinite?: boolean;
  pattern?: string;
  calibration?: string;
  samples?: number;
  window?: number;
  seed?: number;
  heal: boolean;
  allocation?: string;
  gram?: string;
  memory?: number;
  device?: string;
  threads?: number;
  matchRounds?: number;
  distil?: number;
  protocol?: string;
  bos?: boolean | string;
  rows?: boolean;
  separator?: string;
  minTokens?: number;
}

export function addSurgeryOptions(command: Command): Command {
  const { blockSize, nIter, beta, survival } = DEFAULT_PARAMS;
  return command
    .option("--flow <name>", FLOWS.map(({ name, summary }) => `${name}: ${summary}`).join("; "), "magnitude")
    .option("--block-size <n>", `side of a tile (default: ${blockSize})`, toInteger)
    .option("--n-iter <n>", `steps of the dynamic (default: ${nIter})`, toInteger)
    .option("--beta <x>", `exponent of the adaptation, above 1 (default: ${beta.toFixed(1)})`, toNumber)
    .option("--survival <x>", `drive below which a tube starves (default: ${survival})`, toNumber)
    .option(
      "--target-sparsity <fraction>",
      "leave this fraction of zeros over all targets: magnitude and balanced search the survival, which reads them " +
        "once more; activation keeps so many a row",
      toNumber,
    )
    .option("--include <regexp>", "operate on the matrices whose names match, and on no others")
    .option("--exclude <regexp>", "leave out the tensors whose names match")
    .option(
      "--workers <n>",
      "worker threads; 0 works in one thread (default: the processors, within the memory limit)",
      toWorkers,
    )
    .option("--allow-non-finite", "leave NaN and infinite weights untouched instead of refusing them")
    .option("--pattern <n:m>", "activation: keep N of every M inputs, as 2:4")
    .option(
      "--calibration <file>",
      "activation: UTF-8 text to calibrate on, or a file of calibrate (.safetensors; default: the donor writes its " +
        "own text)",
    )
    .option("--samples <n>", "activation: calibration samples (default: 128)", toInteger)
    .option("--window <n>", "activation: tokens of a sample (default: what the model can see, at most 2048)", toInteger)
    .option("--seed <n>", "activation: 0 takes samples in the order of the text, another number draws them", toInteger)
    .option("--allocation <name>", "activation: share a target sparsity between tensors: uniform, owl, emergent")
    .option("--protocol <name>", "activation: read the calibration text as wikitext (one stream) or documents")
    .option("--bos [token]", "activation: begin the stream with BOS or this token; documents begin with BOS anyway")
    .option("--no-bos", "activation: begin documents without BOS")
    .option("--rows", "activation: the text's lines are rows of WikiText, to be joined by a blank line")
    .option("--separator <text>", "activation: what stands between documents (default: <|endoftext|>)")
    .option("--min-tokens <n>", "activation: leave out documents of fewer tokens", toInteger)
    .option("--gram <mode>", "activation: full, tile (--block-size columns at a time) or auto, as --memory allows")
    .option("--memory <GiB>", "activation: budget of the operation (default: half of the machine)", toGibibytes)
    .option("--device <name>", "activation and --eval: cpu, or another the engine lists: webgpu, cuda (default: cpu)")
    .option(
      "--threads <n>",
      "activation and --eval: threads of the matrix products (default: --workers, or all cores)",
      toThreads,
    )
    .option("--no-heal", "activation: survivors keep the donor's bits")
    .option("--match-rounds <n>", "matched: rounds through the calibration in which a layer is matched", toNumber)
    .option(
      "--distil <steps>",
      "matched: afterwards move the survivors of the whole model towards the donor's probabilities, so many steps",
      toInteger,
    );
}

export function toSurgeryOptions(flags: SurgeryFlags): SurgeryOptions {
  const { flow, blockSize, nIter, beta, survival, targetSparsity, include, exclude, workers, allowNonFinite } = flags;
  const { pattern, calibration, samples, window, seed, heal, allocation, gram, memory, matchRounds, distil } = flags;
  const protocol = calibrationProtocol(flags);
  return {
    ...{ flow, blockSize, nIter, beta, survival, targetSparsity, include, exclude, workers, allowNonFinite },
    ...{ pattern, calibration, samples, window, seed, heal, allocation, gram, matchRounds, distil },
    ...(protocol === undefined ? {} : { protocol }),
    ...toDeviceOptions(flags),
    ...(memory === undefined ? {} : { memoryBytes: memory * 2 ** 30 }),
  };
}

/** How the calibration text is read, where anything about it was said. */
function calibrationProtocol({ protocol, bos, rows, separator, minTokens }: SurgeryFlags): ProtocolOptions | undefined {
  const said = { bos, rows, separator, minTokens };
  if (protocol === undefined && Object.values(said).every((value) => value === undefined)) return undefined;
  const given = Object.fromEntries(Object.entries(said).filter(([, value]) => value !== undefined));
  return toProtocolOptions({ ...given, protocol: protocol ?? "wikitext" });
}
