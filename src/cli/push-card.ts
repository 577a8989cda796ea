import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { isPhysariumError } from "../errors.js";
import type { PushFile } from "../hub/push/push-files.js";
import { readDocuments } from "../record/open-record.js";
import { CARD_MARK, type CardForm, renderModelCard } from "../report/model-card.js";

/** The donor's card beside ours. */
const DONOR_CARD = "README.donor.md";

/** Where the card's numbers come from, where that is not what is pushed: the model that was exported. */
export interface CardSource {
  readonly records?: string;
  readonly form?: CardForm;
}

/**
 * The files of a push with a model card among them: made of the records in the folder, the donor's own kept as
 * README.donor.md. What has no records goes as it is.
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
  const readme = await text("README.md");
  // Ours from an earlier step is made anew: measurements may have come since.
  const isOurs = readme?.includes(CARD_MARK) ?? false;
  const donorReadme = isOurs ? await text(DONOR_CARD) : readme;
  const isPacked = files.some(({ path }) => path === "physarium-pack.json");
  const form = source.form ?? (isPacked ? "packed" : "safetensors");
  const kept = files.filter(({ path }) => path !== "README.md" && path !== DONOR_CARD);
  const card = fileOf("README.md", renderModelCard(report, { donorReadme, form }));
  return [card, ...(donorReadme === undefined ? [] : [fileOf(DONOR_CARD, donorReadme)]), ...kept];
}

function fileOf(path: string, text: string): PushFile {
  const bytes = new TextEncoder().encode(text);
  return { path, bytes, byteLength: bytes.byteLength };
}
