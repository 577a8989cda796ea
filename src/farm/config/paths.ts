import { realpathSync } from "node:fs";
import { dirname, isAbsolute, join, relative, resolve, sep } from "node:path";

/** Where a path of organ_farm.json leads, or why it may not be followed. */
export type ResolvedPath = { readonly path: string } | { readonly refused: string };

/**
 * Resolve a path of the file. It stays inside the file's folder by spelling and by symbolic links, so that a file from
 * elsewhere cannot have other files read; `allowOutside` (a flag of the command, never of the file) lifts that.
 */
export function resolveInside(folder: string, given: string, allowOutside: boolean): ResolvedPath {
  if (given.includes("\0")) return { refused: "the path holds a zero byte" };
  const path = resolve(folder, given);
  if (allowOutside) return { path };
  const hint = "give --allow-absolute-paths if you trust the file";
  if (isAbsolute(given)) return { refused: `${given} is absolute; paths stay inside the file's folder, ${hint}` };
  if (!isInside(path, resolve(folder))) return { refused: `${given} leads out of the file's folder; ${hint}` };
  const real = realOf(path);
  if (!isInside(real, realOf(resolve(folder)))) {
    return { refused: `${given} leads out of the file's folder by a symbolic link (to ${real}); ${hint}` };
  }
  return { path };
}

function isInside(path: string, folder: string): boolean {
  const way = relative(folder, path);
  return way !== ".." && !way.startsWith(`..${sep}`) && !isAbsolute(way);
}

/** The path with links followed as far as it exists. */
function realOf(path: string): string {
  const missing: string[] = [];
  for (let at = path; ; at = dirname(at)) {
    try {
      return join(realpathSync(at), ...missing);
    } catch {
      if (dirname(at) === at) return path;
      missing.unshift(at.slice(dirname(at).length).replace(/^[/\\]/, ""));
    }
  }
}
