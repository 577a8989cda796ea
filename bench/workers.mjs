// How many threads, and how many pieces under way on each? The whole of surgery, cold, flushed.
//   node bench/workers.mjs --donor <folder> --folder <scratch> [--rounds 3] [--flow magnitude]
process.env.UV_THREADPOOL_SIZE ??= "8";

import { rmSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { checkOptions, openDonor, operate, planSurgery } from "../dist/index.js";
import { dropCaches } from "./cold.mjs";
import { median, printMachine, printTable } from "./machine.mjs";

const { values } = parseArgs({
  options: {
    donor: { type: "string" },
    folder: { type: "string" },
    rounds: { type: "string", default: "3" },
    flow: { type: "string", default: "magnitude" },
  },
});
if (values.donor === undefined || values.folder === undefined)
  throw new Error("give --donor <folder> and --folder <scratch>");
printMachine();
const donor = await openDonor(values.donor);
const output = join(values.folder, "workers-out");
const rows = [["workers × pieces", "s (median)", "GB/s"]];
const cases = [0, 1, 2, 3, 4].flatMap((workers) =>
  (workers < 2 ? [1, 2, 3, 4] : [2, 3, 4]).map((slots) => ({ workers, slots, times: [] })),
);
for (let round = 0; round < Number(values.rounds); round++) {
  for (const { workers, slots, times } of cases) {
    rmSync(output, { recursive: true, force: true });
    dropCaches();
    const plan = planSurgery(donor, checkOptions({ flow: values.flow }));
    const start = performance.now();
    await operate({ ...plan, memory: { ...plan.memory, workers, slots } }, { outputPath: output });
    times.push((performance.now() - start) / 1000);
  }
}
rmSync(output, { recursive: true, force: true });
for (const { workers, slots, times } of cases) {
  const seconds = median(times);
  rows.push([
    `${workers === 0 ? "inline" : workers} × ${slots}`,
    seconds.toFixed(2),
    (donor.totalSize / 1e9 / seconds).toFixed(2),
  ]);
}
printTable(rows);
