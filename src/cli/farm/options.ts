import { type Command, InvalidArgumentError } from "commander";
import type { OrganFarm } from "../../farm/config/organ-farm.js";
import { farmPath, readFarm } from "../../farm/config/read-config.js";
import { parseSize } from "../../farm/config/units.js";

/** Flags of every farm command. */
export interface FarmFlags {
  file?: string;
  allowAbsolutePaths?: boolean;
  json?: boolean;
}

export function addFarmOptions(command: Command): Command {
  return command
    .option("--file <path>", "the farm's file, or its folder (default: organ_farm.json here, or in organs/)")
    .option("--allow-absolute-paths", "paths of the file may lead out of its folder")
    .option("--json", "the result as JSON");
}

export function openFarm(flags: FarmFlags): Promise<OrganFarm> {
  return readFarm(farmPath(flags.file), readOptions(flags));
}

export function readOptions(flags: FarmFlags): { allowAbsolutePaths: boolean } {
  return { allowAbsolutePaths: flags.allowAbsolutePaths ?? false };
}

/** Bytes of `8GB`, `16GiB`. */
export function toSize(text: string): number {
  const bytes = parseSize(text);
  if (bytes === undefined) throw new InvalidArgumentError("Expected a size, as 8GB or 16GiB.");
  return bytes;
}

export function toSizeText(text: string): string {
  if (text !== "auto") toSize(text);
  return text;
}
