// Which form of input and output moves a file fastest, and what does it cost the processors? No arithmetic: the ceiling
// for surgery. Each form is a process of its own, cold, flushed at the end, turn about.
//   node bench/io-forms.mjs --folder <scratch> [--gigabytes 4] [--rounds 3] [--busy N] [--only <part of a name>]
import { randomFillSync } from "node:crypto";
import { constants, mkdirSync, rmSync } from "node:fs";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { dropCaches, startBusy, timed } from "./cold.mjs";
import { median, printMachine, printTable } from "./machine.mjs";

const MIB = 1 << 20;
const BLOCK = 4096;
/** reads, writes: through the page cache or past it; depth: pieces under way; pool: the runtime's I/O threads. */
const FORMS = [
  ...[4, 8].map((pool) => ({ reads: "cached", writes: "cached", depth: 6, size: 8 * MIB, pool })),
  { reads: "cached", writes: "cached", depth: 12, size: 8 * MIB, pool: 16 },
  ...[4, 8].map((pool) => ({ reads: "direct", writes: "cached", depth: 6, size: 8 * MIB, pool })),
  ...[4, 8].map((pool) => ({ reads: "direct", writes: "direct", depth: 6, size: 8 * MIB, pool })),
  { reads: "direct", writes: "direct", depth: 12, size: 8 * MIB, pool: 16 },
  { reads: "direct", writes: "direct", depth: 6, size: 2 * MIB, pool: 8 },
  { reads: "direct", writes: "direct", depth: 6, size: 32 * MIB, pool: 8 },
  { reads: "cached", writes: "direct", depth: 6, size: 8 * MIB, pool: 8 },
];

const { values } = parseArgs({
  options: {
    folder: { type: "string" },
    gigabytes: { type: "string", default: "4" },
    rounds: { type: "string", default: "3" },
    busy: { type: "string", default: "0" },
    only: { type: "string", default: "" },
    form: { type: "string" },
  },
});
if (values.folder === undefined) throw new Error("give --folder <scratch>");
const from = join(values.folder, "form-from");
const to = join(values.folder, "form-to");
const total = Math.round((Number(values.gigabytes) * 1e9) / (64 * MIB)) * 64 * MIB;

if (values.form !== undefined) await copy(JSON.parse(values.form));
else await compare();

async function compare() {
  mkdirSync(values.folder, { recursive: true });
  printMachine();
  await fill();
  const cases = [
    { name: "cp + fsync", run: () => timed("sh", ["-c", 'cp "$0" "$1" && sync "$1"', from, to]) },
    ...FORMS.map((form) => ({
      name: `${form.reads} reads, ${form.writes} writes, ${form.depth} × ${form.size / MIB} MiB, ${form.pool} threads`,
      run: () =>
        timed(
          process.execPath,
          [
            import.meta.filename,
            "--folder",
            values.folder,
            "--gigabytes",
            values.gigabytes,
            "--form",
            JSON.stringify(form),
          ],
          {
            env: { ...process.env, UV_THREADPOOL_SIZE: String(form.pool) },
          },
        ),
    })),
  ].filter(({ name }) => name.startsWith("cp") || name.includes(values.only));
  const results = new Map(cases.map(({ name }) => [name, []]));
  const endBusy = startBusy(Number(values.busy));
  for (let round = 0; round < Number(values.rounds); round++) {
    for (const { name, run } of round % 2 === 0 ? cases : [...cases].reverse()) {
      rmSync(to, { force: true });
      dropCaches();
      results.get(name).push(await run());
    }
  }
  endBusy();
  for (const path of [from, to]) rmSync(path, { force: true });
  const reference = median(results.get("cp + fsync").map(({ seconds }) => seconds));
  printTable([
    ["", "s (median)", "GB/s", "of cp", "processor s"],
    ...cases.map(({ name }) => {
      const seconds = median(results.get(name).map((result) => result.seconds));
      const cpu = median(results.get(name).map((result) => result.cpuSeconds));
      return [
        name,
        seconds.toFixed(2),
        (total / 1e9 / seconds).toFixed(2),
        (seconds / reference).toFixed(2),
        cpu.toFixed(1),
      ];
    }),
  ]);
  console.log(`${total} bytes, ${values.rounds} rounds, ${values.busy} other programs busy`);
}

async function fill() {
  const file = await open(from, "w");
  const bytes = randomFillSync(new Uint8Array(64 * MIB));
  for (let position = 0; position < total; position += bytes.length) await file.write(bytes, 0, bytes.length, position);
  await file.sync();
  await file.close();
}

async function copy({ reads, writes, depth, size }) {
  const source = await open(from, constants.O_RDONLY | (reads === "direct" ? constants.O_DIRECT : 0));
  const flags = constants.O_RDWR | constants.O_CREAT | constants.O_TRUNC;
  const target = await open(to, flags | (writes === "direct" ? constants.O_DIRECT : 0));
  await target.truncate(total);
  let next = 0;
  // Memory of a kernel begins on a page; so do the pieces in it.
  const memory = new WebAssembly.Memory({ initial: (depth * size) / 65_536 });
  const lane = async (_, index) => {
    const buffer = new Uint8Array(memory.buffer, index * size, size);
    while (next < total) {
      const position = next;
      next += size;
      const length = Math.min(size, total - position);
      await all(source, "read", buffer, length, position);
      await all(target, "write", buffer, length, position);
    }
  };
  await Promise.all(Array.from({ length: depth }, lane));
  await target.sync();
  await Promise.all([source.close(), target.close()]);
}

async function all(file, operation, buffer, length, position) {
  for (let done = 0; done < length; ) {
    const result = await file[operation](buffer, done, length - done, position + done);
    done += result.bytesRead ?? result.bytesWritten;
    if (done % BLOCK !== 0 && done < length) throw new Error(`${operation} ended at an odd place`);
  }
}
