import { join } from "node:path";
import type { Donor } from "../checkpoint/donor.js";
import { type FileLayer, FileSource, readSmallFile } from "../checkpoint/file-layer.js";
import { isPhysariumError } from "../errors.js";
import { CARD_FILE, copiedNames } from "../record/card.js";
import { type Digester, digestSideFile } from "../record/digest.js";
import type { Ledger } from "../record/ledger.js";
import { readHeader, type SafetensorsHeader } from "../safetensors/header.js";
import { INDEX_FILE, parseShardIndex } from "../safetensors/shard-index.js";
import { checkListing } from "./folder-listing.js";
import type { Findings } from "./verification.js";

/** The seed report's integrity table and more: what stands in the folder, before any weight is looked at. */
export interface FolderChecks {
  /** Shards whose length is right and whose header parses: only their weights can be read. */
  readonly headers: ReadonlyMap<string, SafetensorsHeader>;
}

export async function checkFolder(
  output: string,
  donor: Donor | undefined,
  ledger: Ledger,
  findings: Findings,
  digester: Digester,
  files: FileLayer,
): Promise<FolderChecks> {
  const shards = donor === undefined ? [...ledger.shards.keys()] : donor.shards.map(({ file }) => file);
  const expected = new Set([...shards, ...sideFilesOf(donor, ledger).map(({ file }) => file)]);
  const names = await checkListing(output, expected, findings, files);
  findings.check("shards present", `${shards.length} of ${shards.length}`);
  for (const shard of shards) if (!names.has(shard)) findings.differ("shards present", shard, "the shard is missing");

  const headers = await checkHeaders(
    output,
    donor,
    ledger,
    shards.filter((shard) => names.has(shard)),
    findings,
    digester,
    files,
  );
  await checkIndex(output, donor, ledger, headers, names, findings, files);
  await checkSideFiles(output, donor, ledger, names, findings, digester, files);

  return { headers };
}

async function checkHeaders(
  output: string,
  donor: Donor | undefined,
  ledger: Ledger,
  shards: readonly string[],
  findings: Findings,
  digester: Digester,
  files: FileLayer,
): Promise<Map<string, SafetensorsHeader>> {
  const headers = new Map<string, SafetensorsHeader>();
  let tensors = 0;
  findings.check("header bytes equal", "");
  for (const shard of shards) {
    const original = donor?.shards.find(({ file }) => file === shard);
    try {
      const source = await FileSource.open(join(output, shard), files);
      try {
        const record = ledger.shards.get(shard);
        const byteLength = original?.byteLength ?? record?.byte_length;
        if (source.byteLength !== byteLength) {
          findings.differ("shards present", shard, `the shard has ${source.byteLength} bytes, expected ${byteLength}`);
        }
        const headerByteLength = Math.min(original?.dataByteOffset ?? 8, source.byteLength);
        if (original !== undefined)
          await compareHeader(join(donor!.path, shard), source, headerByteLength, shard, findings, files);
        const header = await readHeader(source, shard);
        const digest = digester.digest(await source.read(0, header.dataByteOffset));
        if (record === undefined) findings.differ("ledger complete", shard, "the ledger has no record of this shard");
        else if (digest !== record.header_digest)
          findings.differ("header bytes equal", shard, "its digest is not the one in the ledger");
        if (source.byteLength === byteLength) headers.set(shard, header);
        tensors += header.tensors.length;
      } finally {
        await source.close();
      }
    } catch (error) {
      if (!isPhysariumError(error)) throw error;
      findings.differ("all tensors open", shard, error.message);
    }
  }
  findings.check("header bytes equal", `${shards.length} of ${shards.length} shards`);
  findings.check("all tensors open", `${tensors} tensors in ${headers.size} shards`);
  return headers;
}

async function compareHeader(
  donorPath: string,
  output: FileSource,
  byteLength: number,
  shard: string,
  findings: Findings,
  files: FileLayer,
): Promise<void> {
  const donor = await FileSource.open(donorPath, files);
  try {
    const [before, after] = await Promise.all([donor.read(0, byteLength), output.read(0, byteLength)]);
    const first = before.findIndex((byte, i) => byte !== after[i]);
    if (first >= 0)
      findings.differ(
        "header bytes equal",
        shard,
        `byte ${first} of the header is ${after[first]}, the donor has ${before[first]}`,
      );
  } finally {
    await donor.close();
  }
}

/**
 * Every tensor of the donor has its dtype and shape in the output; every tensor of the output is one of the donor's.
 */
export function checkShapes(donor: Donor, headers: ReadonlyMap<string, SafetensorsHeader>, findings: Findings): void {
  let compared = 0;
  for (const shard of donor.shards) {
    const header = headers.get(shard.file);
    if (header === undefined) continue;
    const found = new Map(header.tensors.map((tensor) => [tensor.name, tensor]));
    for (const { name, dtype, shape } of shard.tensors) {
      const tensor = found.get(name);
      found.delete(name);
      const where = `${shard.file}: tensor "${name}"`;
      compared++;
      if (tensor === undefined) findings.differ("dtypes and shapes preserved", where, "the tensor is missing");
      else if (tensor.dtype !== dtype || tensor.shape.join() !== shape.join()) {
        findings.differ(
          "dtypes and shapes preserved",
          where,
          `it is ${tensor.dtype} [${tensor.shape.join(", ")}], the donor's is ${dtype} [${shape.join(", ")}]`,
        );
      }
    }
    for (const name of found.keys())
      findings.differ("dtypes and shapes preserved", `${shard.file}: tensor "${name}"`, "the donor has no such tensor");
  }
  findings.check("dtypes and shapes preserved", `${compared} tensors`);
}

async function checkIndex(
  output: string,
  donor: Donor | undefined,
  ledger: Ledger,
  headers: ReadonlyMap<string, SafetensorsHeader>,
  names: ReadonlySet<string>,
  findings: Findings,
  files: FileLayer,
): Promise<void> {
  const expectsIndex = donor === undefined ? ledger.sideFiles.has(INDEX_FILE) : donor.index !== undefined;
  if (!expectsIndex) {
    findings.check("index parses", "none needed, the model is a single file");
    return;
  }
  findings.check("index parses", "");
  if (!names.has(INDEX_FILE)) {
    findings.differ("index parses", INDEX_FILE, "the index is missing");
    return;
  }
  try {
    const index = parseShardIndex(await readSmallFile(join(output, INDEX_FILE), files), INDEX_FILE);
    const expected = donor?.index?.weightMap.size ?? ledger.header.donor.tensor_count;
    findings.check("index parses", `${[...new Set(index.weightMap.values())].length} shards`);
    findings.check("weight_map entry count", `${index.weightMap.size}`);
    if (index.weightMap.size !== expected)
      findings.differ(
        "weight_map entry count",
        INDEX_FILE,
        `it has ${index.weightMap.size} entries, expected ${expected}`,
      );
    findings.check(
      "total_size field",
      index.totalSize === undefined ? "none" : `${index.totalSize.toLocaleString("en-US")} bytes`,
    );
    if (donor !== undefined && index.totalSize !== donor.index?.totalSize) {
      findings.differ(
        "total_size field",
        INDEX_FILE,
        `it is ${index.totalSize}, the donor's is ${donor.index?.totalSize}`,
      );
    }
    for (const [shard, header] of headers) {
      for (const { name } of header.tensors) {
        const said = index.weightMap.get(name);
        if (said !== shard)
          findings.differ("index parses", `${shard}: tensor "${name}"`, `the index says ${said ?? "nothing of it"}`);
      }
    }
  } catch (error) {
    if (!isPhysariumError(error)) throw error;
    findings.differ("index parses", INDEX_FILE, error.message);
  }
}

interface ExpectedFile {
  readonly file: string;
  /** The donor's file that it is; absent where it is our card, or no donor is at hand. */
  readonly from?: string;
}

/**
 * What the ledger may decide is whether there is a card of ours, and no more: the donor says which files there are, and
 * where its own card steps aside to is a rule.
 */
function sideFilesOf(donor: Donor | undefined, ledger: Ledger): ExpectedFile[] {
  if (donor === undefined) return [...ledger.sideFiles.keys()].map((file) => ({ file }));
  const hasCard = ledger.cards.length > 0;
  const copied: ExpectedFile[] = copiedNames(
    donor.sideFiles.map(({ file }) => file),
    hasCard,
  );
  return hasCard ? [...copied, { file: CARD_FILE }] : copied;
}

async function checkSideFiles(
  output: string,
  donor: Donor | undefined,
  ledger: Ledger,
  names: ReadonlySet<string>,
  findings: Findings,
  digester: Digester,
  files: FileLayer,
): Promise<void> {
  const sideFiles = sideFilesOf(donor, ledger);
  findings.check("side files copied", sideFileWords(sideFiles, ledger));
  for (const { file, from } of sideFiles) {
    if (!names.has(file)) {
      findings.differ("side files copied", file, "the file is missing");
      continue;
    }
    const digest = await digestSideFile(join(output, file), digester, files);
    if (donor !== undefined && from !== undefined) {
      const original = await digestSideFile(join(donor.path, from), digester, files);
      const whose = from === file ? "the donor's" : `those of the donor's ${from}`;
      if (digest !== original) findings.differ("side files copied", file, `its bytes are not ${whose}`);
    }
    const isCard = file === CARD_FILE && ledger.cards.length > 0;
    const records = isCard ? ledger.cards : [ledger.sideFiles.get(file)].filter((each) => each !== undefined);
    if (records.length === 0) findings.differ("ledger complete", file, "the ledger has no record of this file");
    else if (!records.some((record) => record.digest === digest))
      findings.differ("side files copied", file, "its digest is not the one in the ledger");
  }
}

function sideFileWords(sideFiles: readonly ExpectedFile[], { cards }: Ledger): string {
  const count = sideFiles.length;
  const few = count > 0 && count <= 8 ? `: ${sideFiles.map(({ file }) => file).join(", ")}` : "";
  return `${count} files${few}${cards.length > 0 ? `; ${CARD_FILE} is the model card, as the ledger has it` : ""}`;
}
