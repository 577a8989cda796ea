import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isPackedFolder } from "../pack/manifest.js";
import { unpackModel } from "../pack/unpack-model.js";

/**
 * Run `work` on a model folder that the engine can map: the folder itself, or a packed one unpacked into the system's temporary
 * folder for as long as it takes. The engine maps weights from files, so a packed model needs its full size on the disk meanwhile.
 */
export async function withMappable<T>(
  path: string,
  say: (line: string) => void,
  work: (path: string) => Promise<T>,
): Promise<T> {
  if (!(await isPackedFolder(path))) return work(path);
  const folder = await mkdtemp(join(tmpdir(), "physarium-"));
  try {
    say(`unpacking ${path} into ${folder} for the forward pass; it is removed afterwards`);
    const { output } = await unpackModel(path, join(folder, "model"));
    return await work(output);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
