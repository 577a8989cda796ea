import { join } from "node:path";
import { attempt, nodeFiles, readSmallFile, writeFully } from "../checkpoint/file-layer.js";
import { isPhysariumError, PhysariumError } from "../errors.js";
import type { QualitySection } from "./quality.js";

/**
 * Put the quality section into `<model>/physarium/surgery.json` as its field `quality`; `physarium report` renders it from there.
 *
 * The file is written beside its name and renamed. Throws `USAGE_SAVE` where the folder is none that surgery wrote.
 */
export async function saveQuality(modelPath: string, quality: QualitySection): Promise<void> {
  const path = join(modelPath, "physarium", "surgery.json");
  let bytes: Uint8Array;
  try {
    bytes = await readSmallFile(path);
  } catch (error) {
    if (!isPhysariumError(error, "IO_NOT_FOUND")) throw error;
    throw new PhysariumError(
      "USAGE_SAVE",
      `${path}: there is no such file; --save adds to the report of a folder that surgery wrote`,
      { path },
      error,
    );
  }
  const report = JSON.parse(new TextDecoder().decode(bytes)) as Record<string, unknown>;
  const text = new TextEncoder().encode(`${JSON.stringify({ ...report, quality }, null, 2)}\n`);
  const beside = `${path}.new`;
  const file = await attempt("creating", beside, () => nodeFiles.open(beside, "w"));
  try {
    await writeFully(file, text, 0, beside);
    await attempt("syncing", beside, () => file.sync());
  } finally {
    await file.close();
  }
  await attempt("renaming", beside, () => nodeFiles.rename(beside, path));
}
