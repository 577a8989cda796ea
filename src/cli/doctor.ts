import { statfs } from "node:fs/promises";
import { availableParallelism, cpus, freemem, totalmem } from "node:os";
import type { Command } from "commander";
import { openRuntime } from "../engine/runtime.js";
import { isPhysariumError, jsonLine, printable } from "../errors.js";
import { diskRate } from "../output/disk-rate.js";
import { defaultMemoryBytes, memoryLimitBytes } from "../probe/memory.js";
import { PHYSARIUM_VERSION } from "../version.js";
import { loadKernelModule } from "../wasm.js";
import { endOnSignal } from "./stop-signal.js";

interface Flags {
  folder: string;
  json?: boolean;
  quiet?: boolean;
}

/** One thing looked at: `bad` keeps physarium from working, `note` from doing all it can. */
interface Finding {
  readonly what: string;
  readonly state: "good" | "note" | "bad";
  readonly found: string;
  readonly advice?: string;
}

/** `physarium doctor` */
export function registerDoctor(program: Command): void {
  program
    .command("doctor")
    .description("look at this machine: Node, engine, devices, threads, memory, disk, kernels, cache; and what helps")
    .option("--folder <path>", "where outputs would go: its disk is measured with a file of 64 MB that is removed", ".")
    .addHelpText(
      "after",
      `
Exit code 2 where something keeps physarium from working at all.

Example:
  physarium doctor --folder /data`,
    )
    .action(async ({ folder, json, quiet }: Flags) => {
      endOnSignal("nothing was written");
      const findings = [
        nodeVersion(),
        kernels(),
        await engine(),
        threads(),
        memory(),
        await disk(folder),
        await cache(),
      ];
      const isWell = findings.every(({ state }) => state !== "bad");
      const shown = quiet ? findings.filter(({ state }) => state !== "good") : findings;
      process.stdout.write(
        json ? jsonLine({ ok: isWell, version: PHYSARIUM_VERSION, findings }) : shown.map(lineOf).join(""),
      );
      if (!isWell) process.exitCode = 2;
    });
}

function lineOf({ what, state, found, advice }: Finding): string {
  const mark = { good: "ok  ", note: "note", bad: "BAD " }[state];
  const more = advice === undefined ? "" : `\n${" ".repeat(14)}${printable(advice)}`;
  return `${mark}  ${what.padEnd(8)}${printable(found)}${more}\n`;
}

function nodeVersion(): Finding {
  return {
    what: "node",
    state: "good",
    found: `${process.version} on ${process.platform} ${process.arch}, physarium ${PHYSARIUM_VERSION}`,
  };
}

/** The kernels are WebAssembly with SIMD: compiling one shows both. */
function kernels(): Finding {
  try {
    loadKernelModule("surgery");
    return { what: "kernels", state: "good", found: "WebAssembly with SIMD works, the kernels are there" };
  } catch (error) {
    return {
      what: "kernels",
      state: "bad",
      found: `they cannot be loaded: ${(error as Error).message.split("\n")[0]}`,
      advice: "install physarium again; from a clone: npm run build",
    };
  }
}

async function engine(): Promise<Finding> {
  try {
    const { runtime } = await openRuntime();
    const devices = runtime.listSupportedBackends().map(({ name }) => name);
    return { what: "engine", state: "good", found: `onnxruntime-node is there; devices: ${devices.join(", ")}` };
  } catch (error) {
    if (!isPhysariumError(error)) throw error;
    return {
      what: "engine",
      state: "note",
      found: "surgery by magnitudes, verify, pack and export work; eval, gate, generate and the activation flow do not",
      advice: error.message,
    };
  }
}

function threads(): Finding {
  const [first] = cpus();
  return {
    what: "threads",
    state: "good",
    found: `${availableParallelism()} for this process, of ${cpus().length} (${first?.model.trim() ?? "unknown"})`,
  };
}

function memory(): Finding {
  const all = memoryLimitBytes();
  const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
  const found =
    `${gib(all)}${all < totalmem() ? " (the limit of this container)" : ""}, ` +
    `${gib(freemem())} free; the activation flow takes up to ${gib(defaultMemoryBytes())} without --memory`;
  if (all >= 2 * 2 ** 30) return { what: "memory", state: "good", found };
  const advice = "a forward pass may not fit; surgery by magnitudes needs some 200 MiB";
  return { what: "memory", state: "note", found, advice };
}

async function disk(folder: string): Promise<Finding> {
  try {
    const { bavail, bsize } = await statfs(folder);
    const { write, read } = await diskRate(folder);
    const gb = (bytes: number) => (bytes / 1e9).toFixed(2);
    return {
      what: "disk",
      state: "good",
      found:
        `${folder}: ${gb(bavail * bsize)} GB free, writes ${gb(write)} GB/s with flushing, reads ${gb(read)} GB/s ` +
        "(64 MB, likely from memory)",
    };
  } catch (error) {
    return {
      what: "disk",
      state: "note",
      found: `${folder}: ${(error as Error).message}`,
      advice: "outputs need a folder that can be written to; --folder names another",
    };
  }
}

/** Where models of the Hub are kept, and whether the network may be asked. Nothing is sent. */
async function cache(): Promise<Finding> {
  const { readHubEnvironment } = await import("../hub/environment.js");
  try {
    const { cacheFolder, endpoint, token, offline } = readHubEnvironment();
    return {
      what: "cache",
      state: "good",
      found:
        `${cacheFolder}; ${offline ? "offline (HF_HUB_OFFLINE)" : endpoint}, ` +
        `${token === undefined ? "no token" : "a token is set"}`,
    };
  } catch (error) {
    return { what: "cache", state: "note", found: (error as Error).message };
  }
}
