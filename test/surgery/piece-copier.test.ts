import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { BLOCK_BYTES, BLOCK_MARGIN, blockBuffer, DirectFiles } from "../../dist/checkpoint/direct-files.js";
import { nodeFiles } from "../../dist/checkpoint/file-layer.js";
import { createDigester } from "../../dist/record/digest.js";
import { copyPiece } from "../../dist/surgery/piece-copier.js";
import { temporaryFolder } from "../temporary.js";

const folder = temporaryFolder();

test.each(["cached", "direct"])("a piece larger than the buffer is copied and digested whole, %s", async (passage) => {
  const [donorPath, outputPath] = [join(folder, `donor-${passage}`), join(folder, `output-${passage}`)];
  const bytes = Uint8Array.from({ length: 20_000 }, (_, at) => (at * 7) % 251);
  writeFileSync(donorPath, bytes);
  writeFileSync(outputPath, new Uint8Array(20_000));
  const digester = await createDigester();
  const files = new DirectFiles(nodeFiles, 2, () => passage === "direct");
  const place = {
    shard: "s",
    tensor: "t",
    donorPath,
    outputPath,
    byteOffset: 104,
    outputByteOffset: 104,
    byteLength: 18_000,
  };
  const shape = { dtype: "BF16", rows: 90, cols: 100, rowStart: 0, matrix: 0, matrixCount: 1 } as const;
  const room = blockBuffer(BLOCK_BYTES + BLOCK_MARGIN);
  const expected = digester.digest(bytes.subarray(104, 18_104));
  expect((await copyPiece({ kind: "copy", ...place, ...shape }, room, files, digester)).digest).toBe(expected);
  expect((await copyPiece({ kind: "check", ...place, ...shape }, room, files, digester)).digest).toBe(expected);
  await files.close();
  const written = Buffer.alloc(20_000);
  written.set(bytes.subarray(104, 18_104), 104);
  expect(Buffer.compare(readFileSync(outputPath), written)).toBe(0);
});
