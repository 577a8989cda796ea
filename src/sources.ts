import { join } from "node:path";
import { PACK_MANIFEST_FILE } from "./checkpoint/donor.js";
import { type FileLayer, nodeFiles } from "./checkpoint/file-layer.js";
import { FolderSource } from "./checkpoint/folder-source.js";
import type { ModelSource, SourceRef } from "./checkpoint/model-source.js";

/**
 * Where a model's bytes come from, by what was given: a folder's path, a packed folder's, an address of the Hub, or the
 * reference that another thread made. This file alone knows all kinds of source; a new kind is a line here.
 *
 * Throws what opening a packed folder throws (`DONOR_PACK_*`, `IO_*`) or asking the Hub (`HUB_*`); a plain folder is
 * not looked into yet.
 */
export async function openSource(model: string | SourceRef, files: FileLayer = nodeFiles): Promise<ModelSource> {
  const { kind, path } = typeof model === "string" ? await refOf(model, files) : model;
  if (kind === "folder") return new FolderSource(path, files);
  if (kind === "hub") {
    const { HubSource } = await import("./hub/hub-source.js");
    const { parseHubAddress } = await import("./hub/address.js");
    return HubSource.open(parseHubAddress(path));
  }
  // Loaded where it is needed: a surgery's threads start without the decoder of packs.
  const { openPacked } = await import("./pack/packed-model.js");
  return (await openPacked(path, files)).donor.source;
}

async function refOf(path: string, files: FileLayer): Promise<SourceRef> {
  if (path.startsWith("hf://")) return { kind: "hub", path };
  const isPacked = await files.stat(join(path, PACK_MANIFEST_FILE)).then(
    (stat) => stat.isFile(),
    () => false,
  );
  return { kind: isPacked ? "packed" : "folder", path };
}
