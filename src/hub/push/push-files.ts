import { type FileHandle, readdir, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { attempt } from "../../checkpoint/file-layer.js";
import { PhysariumError } from "../../errors.js";

/** A file as it will stand in the repository. */
export interface PushFile {
  /** In the repository, `/` between the parts. */
  readonly path: string;
  readonly byteLength: number;
  /** Where it lies; absent where its bytes are given. */
  readonly localPath?: string;
  /** The open file, where its folder may be renamed while it goes up. */
  readonly handle?: FileHandle;
  readonly bytes?: Uint8Array;
}

/** What git, caches and systems leave in folders; a repository has its own attributes. */
const NOT_PUSHED = /^(\.git|\.cache|\.DS_Store|\.gitattributes|.*\.partial|.*\.lock)$/;

/** Every file of a folder, or a single file, as it would be pushed. Throws `USAGE_PUSH`, `IO_*`. */
export async function filesToPush(place: string): Promise<PushFile[]> {
  const found = await attempt("examining", place, () => stat(place));
  if (!found.isDirectory()) return [{ path: basename(place), byteLength: found.size, localPath: place }];
  const files = (await walk(place, "")).sort((a, b) => (a.path < b.path ? -1 : 1));
  if (files.length > 0) return files;
  throw new PhysariumError("USAGE_PUSH", `${place}: there is no file to push; give the folder of a model`, { place });
}

async function walk(root: string, inside: string): Promise<PushFile[]> {
  const files: PushFile[] = [];
  const folder = join(root, inside);
  for (const name of await attempt("listing", folder, () => readdir(folder))) {
    if (NOT_PUSHED.test(name)) continue;
    const path = inside === "" ? name : `${inside}/${name}`;
    const localPath = join(root, path);
    const found = await attempt("examining", localPath, () => stat(localPath));
    if (found.isDirectory()) files.push(...(await walk(root, path)));
    else if (found.isFile()) files.push({ path, byteLength: found.size, localPath });
  }
  return files;
}
