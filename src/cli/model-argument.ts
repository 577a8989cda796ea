import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { chooseLayout } from "../checkpoint/layout.js";
import { modelFolder } from "../checkpoint/model-path.js";
import { isPhysariumError, printable } from "../errors.js";
import { isHubAddress } from "../hub/address.js";
import { INDEX_FILE, parseShardIndex } from "../safetensors/shard-index.js";
import type { ProgressStyle } from "./progress.js";

/**
 * The folder that an argument names as a model: as it was given, within the root of a hub cache the snapshot, or that
 * of an `hf://` address, fetched into the cache. Throws `DONOR_*` for what is no folder, `HUB_*`.
 */
export async function folderArgument(given: string, style: ProgressStyle): Promise<string> {
  if (!isHubAddress(given)) return modelFolder(given);
  const { fetchWithProgress } = await import("./hub-model.js");
  return (await fetchWithProgress(given, style)).folder;
}

/** The same; a folder that holds two models is said on stderr. surgery, plan and verify say it in their own words. */
export async function modelArgument(given: string, style: ProgressStyle): Promise<string> {
  const folder = await folderArgument(given, style);
  const present = new Set(await readdir(folder).catch(() => []));
  if (!present.has("model.safetensors") || !present.has(INDEX_FILE)) return folder;
  const read = (file: string) => readFile(join(folder, file));
  const readIndex = async () => parseShardIndex(await read(INDEX_FILE), INDEX_FILE);
  try {
    const { warnings } = await chooseLayout({ path: folder, present, read, readIndex });
    for (const { code, message } of warnings) process.stderr.write(`warning: ${printable(message)} [${code}]\n`);
  } catch (error) {
    // Whoever opens the model refuses it, and says where it was opened.
    if (!isPhysariumError(error)) throw error;
  }
  return folder;
}

/**
 * Where a text is an address of the Hub, `hf://datasets/org/name/file.txt`, fetch the file into the cache and put its
 * path in the address's place. Throws `HUB_*`.
 */
export async function fetchTexts<Names extends string>(
  flags: { [Name in Names]?: string | undefined },
  style: ProgressStyle,
  ...names: Names[]
): Promise<void> {
  for (const name of names) {
    const given: string | undefined = flags[name];
    if (given === undefined || !isHubAddress(given)) continue;
    const { fetchTextWithProgress } = await import("./hub-model.js");
    flags[name] = await fetchTextWithProgress(given, style);
  }
}
