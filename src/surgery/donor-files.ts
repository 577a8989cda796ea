import { join } from "node:path";
import { type FileLayer, FileSource } from "../checkpoint/file-layer.js";
import type { ModelSource, SourceFile } from "../checkpoint/model-source.js";

/** A donor as far as its files are opened: any plan has one. */
export interface DonorPlace {
  readonly model: { readonly source: ModelSource };
  readonly donor: { readonly path: string };
}

/** Open a file of the donor: in its folder through `files`, over the wire through its source. Throws `IO_*`, `HUB_*`. */
export function openDonorFile({ model: { source } }: DonorPlace, file: string, files: FileLayer): Promise<SourceFile> {
  return source.localPath === undefined ? source.open(file) : FileSource.open(join(source.localPath, file), files);
}

/** True where the donor lies on a disk; else its bytes come over the wire, and what was asked for is what comes. */
export function isLocal({ model: { source } }: DonorPlace): boolean {
  return source.localPath !== undefined;
}
