import { execFile } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { freemem, totalmem } from "node:os";
import { promisify } from "node:util";
import { freeBytes } from "../../output/disk-space.js";
import type { OrganFarm, Tier } from "../config/organ-farm.js";
import type { Budget } from "./choose.js";

/** What `auto` came to, and where the figure is from. */
export interface MachineBudget extends Budget {
  readonly words: Readonly<Record<Tier, string>>;
}

/** Of the memory that is free, the share that auto leaves to everybody else. */
const RAM_LEFT = 0.1;

/**
 * Budgets in bytes. `auto` is what is free now: video memory as its driver says, RAM within the container's limit, the
 * disk of the farm's folder. `given` stands in for the file's word: to plan for another machine.
 */
export async function budgetOf(
  farm: OrganFarm,
  given: Partial<Record<Tier, number>> = {},
  statePath = farm.folder,
): Promise<MachineBudget> {
  const words: Record<Tier, string> = { VRAM: "as given", RAM: "as given", SSD: "as given" };
  const of = async (tier: Tier, free: () => Promise<{ bytes: number; words: string }>): Promise<number> => {
    const asked = given[tier] ?? farm.budget[tier];
    if (asked !== "auto") {
      if (given[tier] === undefined) words[tier] = "as the file says";
      return asked;
    }
    const found = await free();
    words[tier] = `auto: ${found.words}`;
    return found.bytes;
  };
  return {
    VRAM: await of("VRAM", freeVideoMemory),
    RAM: await of("RAM", async () => ({
      bytes: Math.floor(freeMemory() * (1 - RAM_LEFT)),
      words: `nine tenths of what is free now`,
    })),
    SSD: await of("SSD", async () => ({ bytes: await freeBytes(statePath), words: "free on the farm's disk" })),
    words,
  };
}

/** Free RAM within the limit of the process's container. */
export function freeMemory(): number {
  const available = /^MemAvailable:\s+(\d+) kB$/m.exec(readText("/proc/meminfo"))?.[1];
  const machine = available === undefined ? freemem() : Number(available) * 1024;
  const limit = process.constrainedMemory?.() ?? 0;
  if (limit === 0 || limit > totalmem()) return machine;
  const used = Number(readText("/sys/fs/cgroup/memory.current") || Number.NaN);
  return Math.min(machine, Number.isFinite(used) ? Math.max(0, limit - used) : limit);
}

async function freeVideoMemory(): Promise<{ bytes: number; words: string }> {
  const nvidia = await promisify(execFile)("nvidia-smi", ["--query-gpu=memory.free", "--format=csv,noheader,nounits"], {
    timeout: 10_000,
  }).then(
    ({ stdout }) => stdout.trim().split("\n").map(Number).filter(Number.isFinite),
    () => [],
  );
  // One engine process uses one device: the largest counts, not the sum.
  if (nvidia.length > 0) return { bytes: Math.max(...nvidia) * 2 ** 20, words: "free on the GPU, as nvidia-smi says" };
  const amd = listFolder("/sys/class/drm").flatMap((card) => {
    const folder = `/sys/class/drm/${card}/device`;
    const free = Number(readText(`${folder}/mem_info_vram_total`)) - Number(readText(`${folder}/mem_info_vram_used`));
    return free > 0 ? [free] : [];
  });
  if (amd.length > 0) return { bytes: Math.max(...amd), words: "free on the GPU, as the kernel says" };
  return { bytes: 0, words: "no GPU was found" };
}

function readText(path: string): string {
  try {
    return readFileSync(path, "utf8").trim();
  } catch {
    return "";
  }
}

function listFolder(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}
