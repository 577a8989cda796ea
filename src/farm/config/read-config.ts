import { existsSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { readSmallFile } from "../../checkpoint/file-layer.js";
import { PhysariumError } from "../../errors.js";
import { findProblems } from "./find-problems.js";
import { type LocatedJson, parseLocated } from "./located-json.js";
import type { OrganFarm, Problem } from "./organ-farm.js";
import { resolveFarm } from "./resolve-farm.js";

export const FARM_FILE = "organ_farm.json";

export interface ReadOptions {
  /** Paths of the file may lead out of its folder. */
  readonly allowAbsolutePaths?: boolean;
}

export interface FarmFile {
  readonly path: string;
  readonly text: string;
  readonly json: LocatedJson;
}

/** The farm's file: as given, a folder's, or that of the working folder. Throws `USAGE_FARM_FILE` where there is none. */
export function farmPath(given: string | undefined): string {
  const start = resolve(given ?? ".");
  if (given !== undefined && basename(start).endsWith(".json")) return start;
  const candidates = [join(start, FARM_FILE), join(start, "organs", FARM_FILE)];
  const found = candidates.find((path) => existsSync(path));
  if (found !== undefined) return found;
  throw new PhysariumError(
    "USAGE_FARM_FILE",
    `${candidates[0]}: there is no such file; physarium farm init makes one, --file names another`,
    { path: candidates[0] },
  );
}

/** Four megabytes hold ten thousand organs. */
const MAX_BYTES = 4 << 20;

export async function readFarmFile(path: string): Promise<FarmFile> {
  const bytes = await readSmallFile(path, undefined, MAX_BYTES);
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (error) {
    throw new PhysariumError("USAGE_FARM", `${path}: the file is not UTF-8; save it as UTF-8`, { path }, error);
  }
  return { path, text, json: parseLocated(text) };
}

/** Everything wrong with the file, in the order of its lines; with what it says where nothing is. */
export async function checkFarm(
  path: string,
  options: ReadOptions = {},
): Promise<{ readonly problems: readonly Problem[]; readonly farm: OrganFarm | undefined }> {
  const file = await readFarmFile(path);
  const problems = await findProblems(file, options);
  if (problems.length > 0) return { problems, farm: undefined };
  return { problems, farm: resolveFarm(path, dirname(path), file.json.value, options.allowAbsolutePaths ?? false) };
}

/** The farm, or `USAGE_FARM` with everything that is wrong. */
export async function readFarm(path: string, options: ReadOptions = {}): Promise<OrganFarm> {
  const { problems, farm } = await checkFarm(path, options);
  if (farm !== undefined) return farm;
  throw farmError(path, problems);
}

export function farmError(path: string, problems: readonly Problem[]): PhysariumError {
  const [first] = problems;
  const more = problems.length === 1 ? "" : ` (and ${problems.length - 1} more: physarium farm check)`;
  return new PhysariumError("USAGE_FARM", `${problemWords(first)}${more}`, { path, problems });
}

/** As compilers say it: file:line:column. */
export function problemWords({ file, line, column, message }: Problem): string {
  return `${file}:${line}:${column}: ${message}`;
}
