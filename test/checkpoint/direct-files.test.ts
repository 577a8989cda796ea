import { constants, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import { BLOCK_MARGIN, blockBuffer, DirectFiles } from "../../dist/checkpoint/direct-files.js";
import { type FileLayer, nodeFiles } from "../../dist/checkpoint/file-layer.js";
import { readPassage, writePassage } from "../../dist/checkpoint/passage.js";
import { temporaryFolder } from "../temporary.js";

const folder = temporaryFolder();
const LENGTH = 50_001;
const bytes = Uint8Array.from({ length: LENGTH }, (_, at) => (at * 31 + (at >> 8)) % 253);

/** Counts what goes past the page cache, and may answer as a system would that does not take it. */
function watched(answer: (call: "open" | "read" | "write") => void): { files: FileLayer; direct: () => number } {
  let direct = 0;
  const files = {
    ...nodeFiles,
    open: async (path: string, flags: string | number, mode?: number) => {
      const isDirect = typeof flags === "number" && (flags & constants.O_DIRECT) !== 0;
      if (!isDirect) return nodeFiles.open(path, flags, mode);
      answer("open");
      const file = (await nodeFiles.open(path, flags, mode)) as Awaited<
        ReturnType<typeof import("node:fs/promises").open>
      >;
      const [read, write] = [file.read.bind(file), file.write.bind(file)];
      file.read = ((...args: Parameters<typeof read>) => {
        answer("read");
        direct++;
        return read(...args);
      }) as typeof file.read;
      file.write = ((...args: Parameters<typeof write>) => {
        answer("write");
        direct++;
        return write(...args);
      }) as typeof file.write;
      return file;
    },
  } as FileLayer;
  return { files, direct: () => direct };
}

test.skipIf(process.platform !== "linux")(
  "pieces at any place are read and written as through the page cache",
  async () => {
    const [from, to] = [join(folder, "from"), join(folder, "to")];
    writeFileSync(from, bytes);
    const { files, direct } = watched(() => {});
    const pieces = new DirectFiles(files, 8, () => true);
    await fc.assert(
      fc.asyncProperty(fc.nat(LENGTH), fc.nat(LENGTH), fc.boolean(), async (a, b, aligned) => {
        const begin = aligned ? Math.min(a, b) & ~7 : Math.min(a, b);
        const length = Math.max(a, b) - begin;
        writeFileSync(to, new Uint8Array(LENGTH).fill(7));
        const read = await pieces.read(from, blockBuffer(LENGTH + BLOCK_MARGIN), begin, length);
        expect(Buffer.compare(read, bytes.subarray(begin, begin + length))).toBe(0);
        await pieces.write(to, read, begin);
        const expected = Buffer.alloc(LENGTH, 7);
        expected.set(read, begin);
        expect(Buffer.compare(readFileSync(to), expected)).toBe(0);
      }),
      { numRuns: 60 },
    );
    await pieces.close();
    expect(direct()).toBeGreaterThan(20);
  },
);

test.skipIf(process.platform !== "linux").each(["open", "read", "write"] as const)(
  "a system that refuses it at %s is asked once, then the page cache",
  async (where) => {
    const [from, to] = [join(folder, "refused-from"), join(folder, "refused-to")];
    writeFileSync(from, bytes);
    writeFileSync(to, new Uint8Array(LENGTH));
    let refusals = 0;
    const { files } = watched((call) => {
      if (call !== where) return;
      refusals++;
      throw Object.assign(new Error("EINVAL: invalid argument"), { code: "EINVAL" });
    });
    const pieces = new DirectFiles(files, 8, () => true);
    const room = blockBuffer(LENGTH + BLOCK_MARGIN);
    for (let begin = 0; begin < 49_152; begin += 16_384) {
      await pieces.write(to, await pieces.read(from, room, begin, 16_384), begin);
    }
    await pieces.close();
    expect(Buffer.compare(readFileSync(to).subarray(0, 49_152), bytes.subarray(0, 49_152))).toBe(0);
    expect(refusals).toBe(where === "open" ? 2 : 1);
  },
);

test("small files, and what is in the page cache, go through it; PHYSARIUM_IO says otherwise", async () => {
  const path = join(folder, "passage");
  writeFileSync(path, bytes);
  expect(await readPassage(path, LENGTH, nodeFiles)).toBe("cached");
  expect(writePassage(LENGTH)).toBe("cached");
  expect(writePassage(1 << 30)).toBe("direct");
  const large = join(folder, "large");
  writeFileSync(large, new Uint8Array(65 << 20));
  expect(await readPassage(large, 65 << 20, nodeFiles)).toBe("cached");
  process.env.PHYSARIUM_IO = "direct";
  try {
    expect(await readPassage(path, LENGTH, nodeFiles)).toBe("direct");
    expect(writePassage(LENGTH)).toBe("direct");
  } finally {
    delete process.env.PHYSARIUM_IO;
  }
});
