import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { FileCache } from "../../dist/checkpoint/file-cache.js";
import { nodeFiles } from "../../dist/checkpoint/file-layer.js";
import { createDigester } from "../../dist/record/digest.js";
import { copyPiece } from "../../dist/surgery/piece-copier.js";
import { temporaryFolder } from "../temporary.js";

const folder = temporaryFolder();

test("a piece larger than the buffer is copied and digested whole", async () => {
  const [donorPath, outputPath] = [join(folder, "donor"), join(folder, "output")];
  const bytes = Uint8Array.from({ length: 1000 }, (_, at) => (at * 7) % 251);
  writeFileSync(donorPath, bytes);
  writeFileSync(outputPath, new Uint8Array(1000));
  const digester = await createDigester();
  const files = new FileCache(nodeFiles, 2);
  const offsets = { byteOffset: 100, outputByteOffset: 100, byteLength: 800 };
  const place = { shard: "s", tensor: "t", donorPath, outputPath, ...offsets };
  const shape = { dtype: "BF16", rows: 20, cols: 20, rowStart: 0, matrix: 0, matrixCount: 1 } as const;
  const buffer = new Uint8Array(300);
  const expected = digester.digest(bytes.subarray(100, 900));
  expect((await copyPiece({ kind: "copy", ...place, ...shape }, buffer, files, digester)).digest).toBe(expected);
  expect((await copyPiece({ kind: "check", ...place, ...shape }, buffer, files, digester)).digest).toBe(expected);
  await files.close();
  expect(readFileSync(outputPath).subarray(100, 900)).toEqual(Buffer.from(bytes.subarray(100, 900)));
});
