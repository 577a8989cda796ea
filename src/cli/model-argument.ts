import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { chooseLayout } from "../checkpoint/layout.js";
import { modelFolder } from "../checkpoint/model-path.js";
import { isPhysariumError, printable } from "../errors.js";
import { INDEX_FILE, parseShardIndex } from "../safetensors/shard-index.js";

/**
 * The folder that an argument names as a model: as it was given, or within the root of a hub cache the snapshot. Throws
 * `DONOR_*` for what is no folder.
 *
 * A folder that holds two models is said on stderr; surgery and plan say it among their own warnings and use
 * `modelFolder`.
 */
export async function modelArgument(given: string): Promise<string> {
  const folder = await modelFolder(given);
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
