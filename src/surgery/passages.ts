import { join } from "node:path";
import type { FileLayer } from "../checkpoint/file-layer.js";
import { readPassage, writePassage } from "../checkpoint/passage.js";
import type { TilePlan } from "./plan.js";

/**
 * The shards to read or write past the page cache, by path: of the donor as far as they are not in it, and of the
 * output in `folder`. To be asked while nothing of this process reads.
 */
export async function directShards(plan: TilePlan, folder: string, files: FileLayer): Promise<string[]> {
  const direct = directOutputs(plan, folder);
  for (const { path, byteLength } of plan.shards) {
    if ((await readPassage(path, byteLength, files)) === "direct") direct.push(path);
  }
  return direct;
}

/** Those of the output alone: a donor whose bytes come from elsewhere has no file to look at. */
export function directOutputs(plan: TilePlan, folder: string): string[] {
  const large = plan.shards.filter(({ byteLength }) => writePassage(byteLength) === "direct");
  return large.map(({ file }) => join(folder, file));
}
