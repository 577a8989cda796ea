// What shape of copying suits the disk? A plain copy of one large file by positional reads and writes, cold, flushed at
// the end: how many pieces under way, how large, flushed when. No arithmetic, no digest: the ceiling for surgery.
//   node bench/copy-shape.mjs --folder <scratch> [--gigabytes 2] [--rounds 3]
process.env.UV_THREADPOOL_SIZE ??= "8";

import { mkdirSync, rmSync } from "node:fs";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { dropCaches } from "./cold.mjs";
import { median, printMachine, printTable } from "./machine.mjs";
import { copyPieces, cp, fill, MIB, totalOf } from "./plain-copy.mjs";

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
const total = totalOf(values.gigabytes);

printMachine();
await fill(from, total);
const cases = [
  { name: "cp + fsync", run: () => cp(from, to) },
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

/** `flush`: "end", or a number of bytes after which what was written is flushed in the background. */
async function copy(depth, size, flush) {
  const [source, target] = [await open(from, "r"), await open(to, "w")];
  let sinceFlush = 0;
  let flushing = Promise.resolve();
  const buffers = Array.from({ length: depth }, () => new Uint8Array(size));
  await copyPieces(source, target, total, buffers, (length) => {
    sinceFlush += length;
    if (flush !== "end" && sinceFlush >= flush) {
      sinceFlush = 0;
      flushing = flushing.then(() => target.datasync());
    }
    return flushing;
  });
}
