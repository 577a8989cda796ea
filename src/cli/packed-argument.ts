import { rmSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { attempt } from "../checkpoint/file-layer.js";
import { isPackedFolder } from "../pack/manifest.js";
import { unpackModel } from "../pack/unpack-model.js";

/**
 * Run `work` on a model folder that the engine can map: the folder itself, or a packed one unpacked into the system's
 * temporary folder for as long as it takes. The engine maps weights from files, so a packed model needs its full size
 * on the disk meanwhile.
 */
export async function withMappable<T>(
  path: string,
  say: (line: string) => void,
  signal: AbortSignal,
  work: (path: string) => Promise<T>,
): Promise<T> {
  if (!(await isPackedFolder(path))) return work(path);
  const folder = await attempt("making a temporary folder in", tmpdir(), () => mkdtemp(join(tmpdir(), "physarium-")));
  // The process ends behind this, so it cannot be left to `finally`.
  const sweep = () => rmSync(folder, { recursive: true, force: true });
  signal.addEventListener("abort", sweep);
  try {
    say(`unpacking ${path} into ${folder} for the forward pass; it is removed afterwards`);
    const { output } = await unpackModel(path, join(folder, "model"));
    return await work(output);
  } finally {
    signal.removeEventListener("abort", sweep);
    await rm(folder, { recursive: true, force: true });
  }
}
