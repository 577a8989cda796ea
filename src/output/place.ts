import { dirname, join, resolve } from "node:path";
import { attempt, type FileLayer, ioError, nodeFiles } from "../checkpoint/file-layer.js";
import { PhysariumError } from "../errors.js";

/** An output's path and the names beside it that a writer takes for a while. */
export interface OutputNames {
  readonly path: string;
  /** Where the file or folder is built. */
  readonly partialPath: string;
  /** Held by the run that builds it: see lock.ts. */
  readonly lockPath: string;
  /** What a run that resumes has finished: see shard-ledger.ts. */
  readonly ledgerPath: string;
  /** Where a replaced folder waits until the new one has its name; nothing of the user's may stand there then. */
  readonly replacedPath: string;
  /** Says, while it stands, that what waits there is ours: see replacement.ts. */
  readonly replacesPath: string;
}

/** The names of an output, symbolic links followed. Throws `USAGE_OUTPUT_EXISTS` for a link that leads nowhere. */
export async function outputNames(path: string, files: FileLayer = nodeFiles): Promise<OutputNames> {
  const output = await followLink(resolve(path), files);
  const partialPath = `${output}.partial`;
  return {
    path: output,
    partialPath,
    lockPath: lockPathOf(partialPath),
    ledgerPath: `${partialPath}.jsonl`,
    replacedPath: `${output}.replaced`,
    replacesPath: `${partialPath}.replaces`,
  };
}

export function lockPathOf(partialPath: string): string {
  return `${partialPath}.lock`;
}

/**
 * Nothing can be renamed onto a symbolic link without taking its place: the output is built beside what the link points
 * to.
 */
async function followLink(output: string, files: FileLayer): Promise<string> {
  let isLink: boolean;
  try {
    isLink = (await files.lstat(output)).isSymbolicLink();
  } catch (error) {
    if (isAbsent(error)) return output;
    throw ioError("examining", output, error);
  }
  if (!isLink) return output;
  try {
    return await files.realpath(output);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== "ENOENT" && code !== "ELOOP") throw ioError("examining", output, error);
    throw new PhysariumError(
      "USAGE_OUTPUT_EXISTS",
      `${output}: a symbolic link of that name ${code === "ELOOP" ? "leads in a circle" : "points to nothing"}; ` +
        "remove it or choose another name",
      { path: output },
      error,
    );
  }
}

/**
 * Refuse an output that is one of the inputs (files or folders), lies in one, lies around one, or is a file of one, by
 * any spelling, symbolic link, hard link or bind mount. The names beside the output are written to as well, so they
 * count. Throws `USAGE_OUTPUT_OVERLAP`.
 *
 * Compared by device and inode along both chains of parents. An input mounted inside the output is on no chain; an
 * output has few sub-folders, so those are looked at one by one.
 */
export async function refuseOverlap(
  { path, partialPath, lockPath, ledgerPath, replacedPath, replacesPath }: OutputNames,
  inputs: readonly string[],
  files: FileLayer = nodeFiles,
): Promise<void> {
  const places = [{ name: path, place: await identify(path, files) }];
  for (const name of [partialPath, lockPath, ledgerPath, replacedPath, replacesPath]) {
    // One that does not exist lies where its output does.
    if (await exists(name, files)) places.push({ name, place: await identify(name, files) });
  }
  for (const input of inputs) {
    const donor = await identify(input, files);
    // Whoever opens it says that it is missing.
    if (!donor.exists) continue;
    for (const { name, place } of places) {
      if (place.chain.includes(donor.chain[0])) throw overlap(name, "equal to or inside", input);
      if (!place.exists) continue;
      if (place.isFolder) {
        const inner = [place.chain[0], ...(await subFolders(name, files))];
        if (inner.some((id) => donor.chain.includes(id))) throw overlap(name, "around", input);
      } else if (donor.isFolder && (await entries(input, files)).includes(place.chain[0])) {
        throw overlap(name, "a file of", input);
      }
    }
  }
}

function overlap(output: string, where: string, input: string): PhysariumError {
  return new PhysariumError(
    "USAGE_OUTPUT_OVERLAP",
    `${output}: the output is ${where} ${input}, which is only read and never written to; choose another place`,
    { output, input },
  );
}

/** Device and inode of a file or folder (or of its nearest parent that exists) and of all its parents. */
interface Place {
  readonly exists: boolean;
  readonly isFolder: boolean;
  readonly chain: readonly string[];
}

async function identify(path: string, files: FileLayer): Promise<Place> {
  let real = resolve(path);
  let found = true;
  for (;;) {
    try {
      real = await files.realpath(real);
      break;
    } catch (error) {
      if (!isAbsent(error) || dirname(real) === real) throw ioError("examining", real, error);
      found = false;
      real = dirname(real);
    }
  }
  const chain: string[] = [];
  let isFolder = false;
  for (; ; real = dirname(real)) {
    const stat = await attempt("examining", real, () => files.stat(real, { bigint: true }));
    if (chain.length === 0) isFolder = stat.isDirectory();
    chain.push(`${stat.dev}:${stat.ino}`);
    if (dirname(real) === real) return { exists: found, isFolder, chain };
  }
}

/** Device and inode of the folders directly in a folder. */
async function subFolders(path: string, files: FileLayer): Promise<string[]> {
  const ids: string[] = [];
  for (const name of (await listOrNothing(path, files)) ?? []) {
    const file = join(path, name);
    const { dev, ino, isFolder } = await attempt("examining", file, async () => {
      const stat = await files.lstat(file, { bigint: true });
      return { dev: stat.dev, ino: stat.ino, isFolder: stat.isDirectory() };
    });
    if (isFolder) ids.push(`${dev}:${ino}`);
  }
  return ids;
}

/** Device and inode of everything directly in a folder, links followed: a shard may be a link into a cache. */
async function entries(path: string, files: FileLayer): Promise<string[]> {
  const ids: string[] = [];
  for (const name of (await listOrNothing(path, files)) ?? []) {
    try {
      const { dev, ino } = await files.stat(join(path, name), { bigint: true });
      ids.push(`${dev}:${ino}`);
    } catch {
      // A link that leads nowhere is no file that could be lost.
    }
  }
  return ids;
}

/**
 * What stands at a path: nothing, a file, something that is neither file nor folder, a folder with or without entries.
 */
export async function whatStandsAt(
  path: string,
  files: FileLayer = nodeFiles,
): Promise<"nothing" | "file" | "something else" | "empty folder" | "folder"> {
  try {
    const stat = await files.lstat(path);
    if (stat.isDirectory()) return (await files.readdir(path)).length === 0 ? "empty folder" : "folder";
    return stat.isFile() ? "file" : "something else";
  } catch (error) {
    if (isAbsent(error)) return "nothing";
    throw ioError("examining", path, error);
  }
}

/**
 * The names in a folder, or `undefined` where there is none. Throws `USAGE_OUTPUT_EXISTS` where a file has the name.
 */
export async function listOrNothing(path: string, files: FileLayer = nodeFiles): Promise<string[] | undefined> {
  try {
    return await files.readdir(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT") return undefined;
    if (code === "ENOTDIR") {
      throw new PhysariumError(
        "USAGE_OUTPUT_EXISTS",
        `${path}: there is a file of that name, expected a folder to be made; choose another name`,
        { path },
        error,
      );
    }
    throw ioError("listing", path, error);
  }
}

export async function exists(path: string, files: FileLayer = nodeFiles): Promise<boolean> {
  try {
    await files.lstat(path);
    return true;
  } catch (error) {
    if (isAbsent(error)) return false;
    throw ioError("examining", path, error);
  }
}

function isAbsent(error: unknown): boolean {
  return ["ENOENT", "ENOTDIR"].includes((error as NodeJS.ErrnoException).code ?? "");
}
