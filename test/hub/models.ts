import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

export const COMMIT = "0123456789abcdef0123456789abcdef01234567";

/** The files of a folder as a repository of the fake Hub holds them. */
export function filesOf(folder: string): Map<string, Uint8Array> {
  const names = readdirSync(folder).sort();
  return new Map(names.map((name) => [name, Uint8Array.from(readFileSync(join(folder, name)))]));
}
