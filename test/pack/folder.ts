import { createHash } from "node:crypto";
import { mkdtemp, readdir, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll } from "vitest";

const made: string[] = [];
// Registered here: what a `beforeAll` registers is never called.
afterAll(async () => {
  for (const folder of made) await rm(folder, { recursive: true, force: true });
});

/** A scratch folder that goes when the tests of the file are done. */
export async function scratchFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "physarium-pack-"));
  made.push(folder);
  return folder;
}

/** Every file below a folder by relative path, with a digest of its bytes. */
export async function digests(folder: string): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const name of ((await readdir(folder, { recursive: true })) as string[]).sort()) {
    const path = join(folder, name);
    if ((await stat(path)).isFile())
      found[name] = createHash("sha256")
        .update(await readFile(path))
        .digest("hex");
  }
  return found;
}
