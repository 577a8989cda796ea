import { join } from "node:path";
import { type FileLayer, FileSource, nodeFiles } from "../checkpoint/file-layer.js";
import { exists } from "../output/place.js";
import { removeTemporaries, writeSmallFile } from "../output/small-file.js";
import { createDigester, type Digester, digestSideFile, SIDE_FILE_PIECE_BYTES } from "./digest.js";
import type { SideFileRecord } from "./ledger.js";
import { readLedgerText, recordPath, writeRecord } from "./open-record.js";

/**
 * The model card of an output: the one side file that is ours. The donor's own, where it has one, keeps its bytes under
 * another name. The ledger names the card with its digest; every card that came later (measurements make a new one)
 * adds a record, and `verify` takes the bytes of any of them and of nothing else.
 */
export const CARD_FILE = "README.md";

/** The name of the donor's card beside ours. */
const DONOR_CARD = "README.donor.md";

/** A side file of an output, and the donor's file whose bytes it has. */
export interface CopiedName {
  readonly file: string;
  readonly from: string;
}

/**
 * Under which names a donor's side files stand in an output. Without a card of ours under their own; with one, the
 * donor's card steps aside, to the first name that no other of its files has.
 */
export function copiedNames(donorFiles: readonly string[], hasCard: boolean): CopiedName[] {
  const card = hasCard ? cardAmong(donorFiles) : undefined;
  const taken = new Set(donorFiles.map((file) => file.toLowerCase()));
  let aside = DONOR_CARD;
  for (let number = 2; taken.has(aside.toLowerCase()); number++) aside = `README.donor.${number}.md`;
  return donorFiles.map((from) => ({ file: from === card ? aside : from, from }));
}

/** The file that would be the card's own, also where a file system does not tell cases apart. */
function cardAmong(files: readonly string[]): string | undefined {
  return files.find((file) => file === CARD_FILE) ?? files.find((file) => file.toLowerCase() === "readme.md");
}

/** The record of a card with this text, as of any side file. */
export function cardRecord(text: string, digester: Digester): SideFileRecord {
  const bytes = new TextEncoder().encode(text);
  const pieces: string[] = [];
  for (let begin = 0; begin < bytes.byteLength; begin += SIDE_FILE_PIECE_BYTES) {
    pieces.push(digester.digest(bytes.subarray(begin, begin + SIDE_FILE_PIECE_BYTES)));
  }
  return {
    kind: "side_file",
    at: new Date().toISOString(),
    file: CARD_FILE,
    byte_length: bytes.byteLength,
    digest: digester.digest(new TextEncoder().encode(pieces.join(""))),
    made: "card",
  };
}

/** The donor's own card beside ours: its name there, and the beginning of it. */
export interface DonorCard {
  readonly file: string;
  readonly text: string;
}

/** Front matter stands at the beginning; what is behind this much of a card is not looked at. */
const LOOKED_AT = 1 << 20;

/** The donor's card among an output's side files; `undefined` where it had none. Throws `IO_*`. */
export async function readDonorCard(
  outputPath: string,
  sideFiles: Iterable<SideFileRecord>,
  files: FileLayer = nodeFiles,
): Promise<DonorCard | undefined> {
  const kept = [...sideFiles].find(({ from }) => from !== undefined);
  if (kept === undefined) return undefined;
  const source = await FileSource.open(join(outputPath, kept.file), files);
  try {
    const bytes = await source.read(0, Math.min(source.byteLength, LOOKED_AT));
    return { file: kept.file, text: new TextDecoder().decode(bytes) };
  } finally {
    await source.close();
  }
}

/**
 * Give a finished output a card of today: `render` makes it from the donor's. The ledger names it before its bytes are
 * there, so that the output verifies at every moment. Nothing is done where the output has no card of ours, where
 * somebody wrote another since, or where its files are signed.
 */
export async function renewCard(
  outputPath: string,
  render: (donorCard: DonorCard | undefined) => string,
  files: FileLayer = nodeFiles,
): Promise<void> {
  const { ledger, text } = await readLedgerText(outputPath, files);
  const path = join(outputPath, CARD_FILE);
  if (ledger.cards.length === 0 || !(await exists(path, files))) return;
  if (await exists(recordPath(outputPath, "signature"), files)) return;
  const digester = await createDigester();
  const standing = await digestSideFile(path, digester, files);
  if (!ledger.cards.some(({ digest }) => digest === standing)) return;
  const card = render(await readDonorCard(outputPath, ledger.sideFiles.values(), files));
  const record = cardRecord(card, digester);
  if (record.digest === standing) return;
  const whole = text.slice(0, text.lastIndexOf("\n") + 1);
  await writeRecord(outputPath, { ledger: `${whole}${JSON.stringify(record)}\n` }, files);
  await removeTemporaries(outputPath, files, CARD_FILE);
  await writeSmallFile(path, card, files);
}
