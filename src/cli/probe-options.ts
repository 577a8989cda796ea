import type { Command } from "commander";
import { PhysariumError } from "../errors.js";
import type { ProtocolOptions } from "../probe/text/protocols.js";
import { toGibibytes, toInteger, toThreads } from "./arguments.js";

/** Flags of every command that multiplies matrices: where, and on how many threads. */
export interface DeviceFlags {
  device?: string;
  threads?: number;
}

export function addDeviceOptions(command: Command): Command {
  return command
    .option("--device <name>", "cpu, or another the engine lists: webgpu, cuda (default: cpu)")
    .option("--threads <n>", "threads of the matrix products (default: all cores)", toThreads);
}

export function toDeviceOptions({ device, threads }: DeviceFlags): DeviceFlags {
  return { ...(device === undefined ? {} : { device }), ...(threads === undefined ? {} : { threads }) };
}

/** Flags of every command that runs a model. */
export interface EngineFlags extends DeviceFlags {
  memory?: number;
}

export function addEngineOptions(command: Command): Command {
  return addDeviceOptions(command).option(
    "--memory <GiB>",
    "what f32 copies of weights may take (default: half of the memory)",
    toGibibytes,
  );
}

export function toEngineOptions({ memory, ...device }: EngineFlags) {
  return {
    ...toDeviceOptions(device),
    ...(memory === undefined ? {} : { memoryBytes: memory * 2 ** 30 }),
  };
}

/** Flags that say how a text becomes predictions. */
export interface ProtocolFlags {
  protocol?: string;
  window?: number;
  stride?: number;
  bos?: boolean | string;
  newlines?: string;
  rows?: boolean;
  separator?: string;
  minTokens?: number;
  skip?: number;
  limit?: number;
}

export function addProtocolOptions(command: Command): Command {
  return command
    .option("--protocol <name>", "wikitext (one stream, windows side by side) or documents (each from BOS)", "wikitext")
    .option("--window <tokens>", "tokens a window (default: min(2048, max_position_embeddings))", toInteger)
    .option("--stride <tokens>", "overlapping windows: tokens between their starts", toInteger)
    .option(
      "--bos [token]",
      "begin the stream with the tokenizer's BOS, or with this token; `each`: BOS in every window (default: what " +
        "the tokenizer itself puts in front; documents begin with BOS)",
    )
    .option("--no-bos", "no BOS, whatever the tokenizer says")
    .option("--newlines <how>", "universal (\\r\\n and \\r are read as \\n, default) or keep")
    .option("--rows", "the file's lines are rows of WikiText, to be joined by a blank line")
    .option("--separator <text>", "what stands between documents (default: <|endoftext|>)")
    .option("--min-tokens <n>", "leave out documents of fewer tokens", toInteger)
    .option("--skip <n>", "leave out so many windows or documents at the start", toInteger)
    .option("--limit <n>", "at most so many windows or documents", toInteger);
}

export function toProtocolOptions(flags: ProtocolFlags): ProtocolOptions {
  checkProtocolFlags(flags);
  const { protocol, newlines, window, stride, bos, rows, separator, minTokens, skip, limit } = flags;
  if (protocol !== "wikitext" && protocol !== "documents") {
    throw new PhysariumError("USAGE_PROTOCOL", `--protocol ${protocol}: known are wikitext and documents`, {
      protocol,
    });
  }
  if (newlines !== undefined && newlines !== "universal" && newlines !== "keep") {
    throw new PhysariumError("USAGE_PROTOCOL", `--newlines ${newlines}: known are universal and keep`, { newlines });
  }
  const said = { window, stride, bos, rows, separator, minTokens, skip, limit, newlines, protocol };
  return Object.fromEntries(Object.entries(said).filter(([, value]) => value !== undefined));
}

/**
 * Throws `USAGE_PROTOCOL` for numbers that cannot be, and flags that the protocol would not look at: taken in silence
 * they would claim otherwise.
 */
export function checkProtocolFlags({ protocol, bos, separator, rows, skip, limit, minTokens }: ProtocolFlags): void {
  const least = { "--skip": [skip, 0], "--limit": [limit, 1], "--min-tokens": [minTokens, 1] } as const;
  for (const [flag, [value, smallest]] of Object.entries(least)) {
    if (value !== undefined && value < smallest) {
      throw new PhysariumError("USAGE_PROTOCOL", `${flag} ${value}: expected at least ${smallest}`, { value });
    }
  }
  const isDocuments = protocol === "documents";
  const idle = [
    ["--separator", separator !== undefined && !isDocuments, "documents"],
    ["--min-tokens", minTokens !== undefined && !isDocuments, "documents"],
    ["--rows", rows === true && isDocuments, "wikitext"],
    ["--bos each", bos === "each" && isDocuments, "wikitext"],
  ] as const;
  for (const [flag, isIdle, needed] of idle) {
    if (isIdle)
      throw new PhysariumError("USAGE_PROTOCOL", `${flag} goes with --protocol ${needed}; add that, or leave it out`);
  }
}
