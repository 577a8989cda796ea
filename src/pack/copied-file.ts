import { dirname, join } from "node:path";
import type { Donor } from "../checkpoint/donor.js";
import { attempt, type FileLayer } from "../checkpoint/file-layer.js";
import { copyFile as copyWhole } from "../output/copy.js";
import type { Checksum } from "./checksum.js";

/** Copy a file byte for byte, a piece at a time. Returns its length and checksum. */
export async function copyFile(
  from: string,
  to: string,
  checksum: Checksum,
  files: FileLayer,
): Promise<{ byteLength: number; checksum: bigint }> {
  await attempt("creating", dirname(to), () => files.mkdir(dirname(to), { recursive: true }));
  checksum.start();
  const byteLength = await copyWhole(from, to, files, (piece) => checksum.add(piece));
  return { byteLength, checksum: checksum.value() };
}

/**
 * Files of the donor beside its shards that belong to it: side files, and what a surgery left in `physarium/` (its
 * ledger and reports), as paths with `/` from the folder on.
 */
export async function filesToKeep(donor: Donor, files: FileLayer): Promise<string[]> {
  const kept = donor.sideFiles.map((side) => side.file);
  if (donor.leftOut.some((entry) => entry.file === "physarium/"))
    kept.push(...(await listFiles(donor.path, "physarium", files)));
  return kept;
}

async function listFiles(root: string, folder: string, files: FileLayer): Promise<string[]> {
  const found: string[] = [];
  for (const name of (await attempt("listing", folder, () => files.readdir(join(root, folder)))).sort()) {
    const path = `${folder}/${name}`;
    const stat = await attempt("examining", path, () => files.stat(join(root, path)));
    if (stat.isDirectory()) found.push(...(await listFiles(root, path, files)));
    else if (stat.isFile()) found.push(path);
  }
  return found;
}
