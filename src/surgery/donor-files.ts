import { join } from "node:path";
import { type FileLayer, FileSource } from "../checkpoint/file-layer.js";
import type { SourceFile } from "../checkpoint/model-source.js";
import type { Plan } from "./plan.js";

/** Open a file of the donor: in its folder through `files`, over the wire through its source. Throws `IO_*`, `HUB_*`. */
export function openDonorFile({ model: { source } }: Plan, file: string, files: FileLayer): Promise<SourceFile> {
  return source.localPath === undefined ? source.open(file) : FileSource.open(join(source.localPath, file), files);
}

/** True where the donor lies on a disk; else its bytes come over the wire, and what was asked for is what comes. */
export function isLocal({ model: { source } }: Plan): boolean {
  return source.localPath !== undefined;
}
