import type { Stats } from "node:fs";
import { join } from "node:path";
import { attempt, closeQuietly, type FileLayer, READ_ONLY } from "../checkpoint/file-layer.js";
import { RECORD_FOLDER } from "../record/ledger.js";
import { RECORD_FILES } from "../record/open-record.js";
import type { Findings } from "./verification.js";

const CHECK = "nothing added";

/**
 * What a run of an earlier version that was killed at its last step may have left beside the record; nothing reads
 * them.
 */
const LEFTOVERS = ["lock", "replaces"];

/**
 * Every entry of the output, hidden ones and those of its `physarium/` folder too, is one that belongs there, and a
 * regular file: what is added may be read by a loader, or run. A link leads where nobody verified.
 */
export async function checkListing(
  output: string,
  expected: ReadonlySet<string>,
  findings: Findings,
  files: FileLayer,
): Promise<ReadonlySet<string>> {
  findings.check(CHECK, "no file that the donor does not have, no link, nothing hidden");
  const names = new Set<string>();
  for (const name of await attempt("listing", output, () => files.readdir(output))) {
    const path = join(output, name);
    const stat = await attempt("examining", path, () => files.lstat(path));
    const isFolder = name === RECORD_FOLDER;
    if (stat.isSymbolicLink())
      findings.differ(CHECK, name, "it is a link; what it leads to can change after it was verified");
    else if (!isFolder && !expected.has(name))
      findings.differ(CHECK, name, await unknown(path, stat, "the file is neither the donor's nor ours", files));
    else if (isFolder ? !stat.isDirectory() : !stat.isFile())
      findings.differ(CHECK, name, `it is ${kindOf(stat)}, expected a ${isFolder ? "folder" : "regular file"}`);
    else names.add(name);
  }
  if (names.has(RECORD_FOLDER)) await checkRecordFolder(join(output, RECORD_FOLDER), findings, files);
  return names;
}

async function checkRecordFolder(folder: string, findings: Findings, files: FileLayer): Promise<void> {
  const known = new Set<string>([...Object.values(RECORD_FILES), ...LEFTOVERS]);
  for (const name of await attempt("listing", folder, () => files.readdir(folder))) {
    const path = join(folder, name);
    const where = `${RECORD_FOLDER}/${name}`;
    const stat = await attempt("examining", path, () => files.lstat(path));
    if (stat.isSymbolicLink()) findings.differ(CHECK, where, "it is a link; the record has none");
    else if (!known.has(name))
      findings.differ(CHECK, where, await unknown(path, stat, "the record has no such file", files));
    else if (!stat.isFile()) findings.differ(CHECK, where, `it is ${kindOf(stat)}, expected a regular file`);
  }
}

async function unknown(path: string, stat: Stats, what: string, files: FileLayer): Promise<string> {
  if (stat.isDirectory()) return "a sub-folder that is neither the donor's nor ours; a loader may look into it";
  if (!stat.isFile()) return `${what}, and it is ${kindOf(stat)}`;
  const danger = await dangerOf(path, stat, files);
  return `${what}; ${danger === undefined ? "a loader may read it" : `it looks like ${danger}`}`;
}

function kindOf(stat: Stats): string {
  if (stat.isDirectory()) return "a folder";
  if (stat.isFIFO()) return "a pipe";
  if (stat.isSocket()) return "a socket";
  return stat.isFile() ? "a regular file" : "a device";
}

const PICKLED = /\.(?:pkl|pickle|bin|pt|pth|ckpt|joblib|npy|npz|dill|h5|keras)$/i;
const EXECUTABLE = /\.(?:py|pyc|pyd|so|dll|dylib|exe|sh|bash|bat|cmd|ps1|js|mjs|cjs|node|wasm|jar|rb|pl)$/i;

/** First bytes by which a format is told, whatever the file's name. */
const MAGICS: readonly (readonly [number[], string])[] = [
  [[0x7f, 0x45, 0x4c, 0x46], "a program (ELF)"],
  [[0x4d, 0x5a], "a program (PE)"],
  [[0xcf, 0xfa, 0xed, 0xfe], "a program (Mach-O)"],
  [[0x23, 0x21], "a script"],
  [[0x50, 0x4b, 0x03, 0x04], "an archive, as PyTorch pickles are"],
  ...[2, 3, 4, 5].map((protocol): [number[], string] => [
    [0x80, protocol],
    "a pickle, which runs code when it is loaded",
  ]),
];

/** What a file might do to who opens it, by its first bytes, its name or its mode. */
async function dangerOf(path: string, stat: Stats, files: FileLayer): Promise<string | undefined> {
  const head = new Uint8Array(4);
  const file = await files.open(path, READ_ONLY).catch(() => undefined);
  if (file !== undefined) {
    await file.read(head, 0, 4, 0).catch(() => {});
    await closeQuietly(file);
  }
  const magic = MAGICS.find(([bytes]) => bytes.every((byte, i) => head[i] === byte));
  if (magic !== undefined) return magic[1];
  if (PICKLED.test(path)) return "a pickle or an array that may hold one, which runs code when it is loaded";
  if (EXECUTABLE.test(path)) return "a program or a script";
  return process.platform !== "win32" && (stat.mode & 0o111) !== 0 ? "a program (its mode says executable)" : undefined;
}
