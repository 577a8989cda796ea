import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { isPhysariumError } from "../errors.js";
import type { PushFile } from "../hub/push/push-files.js";
import { CARD_FILE, type DonorCard } from "../record/card.js";
import { readDocuments } from "../record/open-record.js";
import { CARD_MARK, type CardForm, renderModelCard } from "../report/model-card.js";

/** The donor's card beside ours, where the push makes it. */
const DONOR_CARD = "README.donor.md";

/** Where the card's numbers come from, where that is not what is pushed: the model that was exported. */
export interface CardSource {
  readonly records?: string;
  readonly form?: CardForm;
}

/**
 * The files of a push with a model card among them. A card of ours goes as it stands: surgery wrote it, and the ledger
 * (or the pack's manifest) has its digest. Where what is pushed has none, it is made of the records, and the donor's
 * own is kept as README.donor.md. What has no records goes as it is.
 */
export async function withCard(
  place: string,
  files: readonly PushFile[],
  source: CardSource = {},
): Promise<PushFile[]> {
  const { records = place } = source;
  const isFolder = await stat(records).then((found) => found.isDirectory());
  if (!isFolder) return [...files];
  const report = await readDocuments(records).catch((error: unknown) => {
    if (isPhysariumError(error)) return undefined;
    throw error;
  });
  if (report === undefined) return [...files];
  const text = (name: string) => readFile(join(records, name), "utf8").catch(() => undefined);
  const readme = await text(CARD_FILE);
  const isOurs = readme?.includes(CARD_MARK) ?? false;
  const isPacked = files.some(({ path }) => path === "physarium-pack.json");
  const hasCard = files.some(({ path }) => path === CARD_FILE);
  // The manifest of a pack lists every file's checksum: one that stands in it stays as it is.
  if (hasCard && records === place && (isOurs || isPacked)) return [...files];
  const donorText = isOurs ? await text(report.model_card?.donor_as ?? DONOR_CARD) : readme;
  const donorCard: DonorCard | undefined = donorText === undefined ? undefined : { file: DONOR_CARD, text: donorText };
  const form = source.form ?? (isPacked ? "packed" : "safetensors");
  const kept = files.filter(({ path }) => path !== CARD_FILE && path !== DONOR_CARD);
  const card = fileOf(CARD_FILE, renderModelCard(report, { donorCard, form }));
  return [card, ...(donorCard === undefined ? [] : [fileOf(DONOR_CARD, donorCard.text)]), ...kept];
}

function fileOf(path: string, text: string): PushFile {
  const bytes = new TextEncoder().encode(text);
  return { path, bytes, byteLength: bytes.byteLength };
}
