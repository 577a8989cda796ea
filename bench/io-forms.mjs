// Which form of input and output moves a file fastest, and what does it cost the processors? No arithmetic: the ceiling
// for surgery. Each form is a process of its own, cold, flushed at the end, turn about.
//   node bench/io-forms.mjs --folder <scratch> [--gigabytes 4] [--rounds 3] [--busy N] [--only <part of a name>]
import { constants, mkdirSync, rmSync } from "node:fs";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { dropCaches, startBusy, timed } from "./cold.mjs";
import { median, printMachine, printTable } from "./machine.mjs";
import { copyPieces, cp, fill, MIB, totalOf } from "./plain-copy.mjs";

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
const total = totalOf(values.gigabytes);

if (values.form !== undefined) await copy(JSON.parse(values.form));
else await compare();

async function compare() {
  mkdirSync(values.folder, { recursive: true });
  printMachine();
  await fill(from, total);
  const cases = [
    { name: "cp + fsync", run: () => cp(from, to) },
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

async function copy({ reads, writes, depth, size }) {
  const source = await open(from, constants.O_RDONLY | (reads === "direct" ? constants.O_DIRECT : 0));
  const flags = constants.O_RDWR | constants.O_CREAT | constants.O_TRUNC;
  const target = await open(to, flags | (writes === "direct" ? constants.O_DIRECT : 0));
  // Memory of a kernel begins on a page; so do the pieces in it.
  const memory = new WebAssembly.Memory({ initial: (depth * size) / 65_536 });
  const buffers = Array.from({ length: depth }, (_, index) => new Uint8Array(memory.buffer, index * size, size));
  await copyPieces(source, target, total, buffers);
}
