// What shape of copying suits the disk? A plain copy of one large file by positional reads and writes, cold, flushed at
// the end: how many pieces under way, how large, flushed when. No arithmetic, no digest: the ceiling for surgery.
//   node bench/copy-shape.mjs --folder <scratch> [--gigabytes 2] [--rounds 3]
process.env.UV_THREADPOOL_SIZE ??= "8";

import { randomFillSync } from "node:crypto";
import { mkdirSync, rmSync } from "node:fs";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { dropCaches, timed } from "./cold.mjs";
import { median, printMachine, printTable } from "./machine.mjs";

const { values } = parseArgs({
  options: {
    folder: { type: "string" },
    gigabytes: { type: "string", default: "2" },
    rounds: { type: "string", default: "3" },
  },
});
if (values.folder === undefined) throw new Error("give --folder <scratch>");
mkdirSync(values.folder, { recursive: true });
const from = join(values.folder, "shape-from");
const to = join(values.folder, "shape-to");
const MIB = 1 << 20;
const total = Math.round((Number(values.gigabytes) * 1e9) / (64 * MIB)) * 64 * MIB;

printMachine();
await fill();
const cases = [
  { name: "cp + fsync", run: () => timed("sh", ["-c", 'cp "$0" "$1" && sync "$1"', from, to]) },
  ...[1, 2, 4, 6, 8].map((depth) => ({
    name: `depth ${depth} × 8 MiB, flush at the end`,
    run: () => copy(depth, 8 * MIB, "end"),
  })),
  ...[1, 2, 4, 16, 32].map((size) => ({
    name: `depth 6 × ${size} MiB, flush at the end`,
    run: () => copy(6, size * MIB, "end"),
  })),
  ...[128, 512].map((every) => ({
    name: `depth 6 × 8 MiB, flush every ${every} MiB too`,
    run: () => copy(6, 8 * MIB, every * MIB),
  })),
];
const times = new Map(cases.map(({ name }) => [name, []]));
for (let round = 0; round < Number(values.rounds); round++) {
  for (const { name, run } of cases) {
    rmSync(to, { force: true });
    dropCaches();
    const start = performance.now();
    await run();
    times.get(name).push((performance.now() - start) / 1000);
  }
}
rmSync(to, { force: true });
rmSync(from, { force: true });
const reference = median(times.get("cp + fsync"));
printTable([
  ["", "s (median)", "GB/s", "of cp"],
  ...cases.map(({ name }) => {
    const seconds = median(times.get(name));
    return [name, seconds.toFixed(2), (total / 1e9 / seconds).toFixed(2), (seconds / reference).toFixed(2)];
  }),
]);

async function fill() {
  const file = await open(from, "w");
  const bytes = randomFillSync(new Uint8Array(64 * MIB));
  for (let position = 0; position < total; position += bytes.length) await file.write(bytes, 0, bytes.length, position);
  await file.sync();
  await file.close();
}

/** `flush`: "end", or a number of bytes after which what was written is flushed in the background. */
async function copy(depth, size, flush) {
  const [source, target] = [await open(from, "r"), await open(to, "w")];
  await target.truncate(total);
  let next = 0;
  let sinceFlush = 0;
  let flushing = Promise.resolve();
  const lane = async () => {
    const buffer = new Uint8Array(size);
    while (next < total) {
      const position = next;
      next += size;
      const length = Math.min(size, total - position);
      await all(source, "read", buffer, length, position);
      await all(target, "write", buffer, length, position);
      sinceFlush += length;
      if (flush !== "end" && sinceFlush >= flush) {
        sinceFlush = 0;
        flushing = flushing.then(() => target.datasync());
      }
    }
  };
  await Promise.all(Array.from({ length: depth }, lane));
  await flushing;
  await target.sync();
  await Promise.all([source.close(), target.close()]);
}

async function all(file, operation, buffer, length, position) {
  for (let done = 0; done < length; ) {
    const result = await file[operation](buffer, done, length - done, position + done);
    done += result.bytesRead ?? result.bytesWritten;
  }
}
