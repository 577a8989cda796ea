// Is surgery as fast as copying the folder? Cold caches, everything flushed at the end, alternating rounds.
//   node bench/surgery-vs-copy.mjs --shapes <config folder> --folder <scratch> [--scale 0.13] [--rounds 3] [--busy N] [--disk] [--verify]
// Synthesises the donor once (kept in the scratch folder); the full 7B shapes need 46 GB of scratch, --scale 0.13 about
// 6 GB.
import { existsSync, mkdirSync, readdirSync, rmSync, statfsSync, statSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { readReport } from "../dist/record/open-record.js";
import { synthesize } from "../dist/synth/synth.js";
import { dropCaches, startBusy, timed } from "./cold.mjs";
import { median, printMachine, printTable } from "./machine.mjs";

const { values } = parseArgs({
  options: {
    shapes: { type: "string" },
    folder: { type: "string" },
    scale: { type: "string", default: "1" },
    rounds: { type: "string", default: "3" },
    flow: { type: "string", default: "magnitude" },
    verify: { type: "boolean", default: false },
    busy: { type: "string", default: "0" },
    disk: { type: "boolean", default: false },
  },
});
if (values.folder === undefined || values.shapes === undefined)
  throw new Error("give --shapes <config folder> and --folder <scratch>");
const SEED_SECONDS = 2775.6; // the seed report's wall clock for 15.2 GB, on another machine
const scale = Number(values.scale);
mkdirSync(values.folder, { recursive: true });
const donor = join(values.folder, `donor-${scale}`);
const copy = join(values.folder, "copy");
const output = join(values.folder, "operated");

printMachine();
if (!existsSync(donor)) {
  const { seconds, totalSize } = await synthesize(values.shapes, donor, { scale });
  console.log(`synthesised ${totalSize} bytes in ${seconds.toFixed(1)} s`);
}
const { bavail, bsize } = statfsSync(values.folder);
console.log(`${((bavail * bsize) / 1e9).toFixed(1)} GB free\n`);

const clean = () => {
  for (const path of [copy, output, `${output}.partial`]) rmSync(path, { recursive: true, force: true });
};
const files = readdirSync(donor);
async function copyFolder() {
  clean();
  dropCaches();
  return {
    copied: await timed("sh", ["-c", 'cp -r "$0" "$1" && cd "$1" && shift && sync "$@"', donor, copy, ...files]),
  };
}
async function operateFolder() {
  clean();
  dropCaches();
  const args = ["dist/cli/main.js", "surgery", donor, output, "--quiet", "--flow", values.flow];
  const operated = await timed(process.execPath, args);
  return { operated, report: await readReport(output) };
}

/** What the disk does by itself in this hour: one large shard read, written, copied. */
async function measureDisk() {
  const largest = files.map((file) => join(donor, file)).sort((a, b) => statSync(b).size - statSync(a).size)[0];
  const gigabytes = statSync(largest).size / 1e9;
  const rate = async (script) => {
    rmSync(copy, { force: true });
    dropCaches();
    const { seconds } = await timed("sh", ["-c", script, largest, copy]);
    return (gigabytes / seconds).toFixed(2);
  };
  const read = await rate('cat "$0" > /dev/null');
  const write = await rate('head -c $(stat -c %s "$0") /dev/zero > "$1" && sync "$1"');
  const copied = await rate('cp "$0" "$1" && sync "$1"');
  rmSync(copy, { force: true });
  console.log(`the disk, one file of ${gigabytes.toFixed(2)} GB: read ${read}, write ${write}, cp ${copied} GB/s\n`);
}

if (values.disk) await measureDisk();
const endBusy = startBusy(Number(values.busy));
const rounds = [];
for (let round = 1; round <= Number(values.rounds); round++) {
  // Disks slow down under load: whoever goes second would always look worse.
  const order = round % 2 === 1 ? [copyFolder, operateFolder] : [operateFolder, copyFolder];
  const results = {};
  for (const run of order) Object.assign(results, await run());
  const { copied, operated, report } = results;
  rounds.push({ copied, operated, report });
  const ratio = operated.seconds / copied.seconds;
  console.log(
    `round ${round}: cp ${copied.seconds.toFixed(2)} s, surgery ${operated.seconds.toFixed(2)} s, ratio ${ratio.toFixed(3)}, cpu ${operated.cpuSeconds.toFixed(1)} s, peak ${(operated.peakBytes / 2 ** 20).toFixed(0)} MiB`,
  );
}
endBusy();
if (values.verify) {
  await operateFolder();
  dropCaches();
  const verified = await timed(process.execPath, ["dist/cli/main.js", "verify", donor, output, "--quiet"]);
  const bytes = 2 * rounds[0].report.donor.total_size;
  dropCaches();
  const read = await timed("sh", ["-c", 'cat "$0"/*.safetensors "$1"/*.safetensors > /dev/null', donor, output]);
  console.log(
    `verify: ${verified.seconds.toFixed(2)} s, ${(bytes / 1e9 / verified.seconds).toFixed(2)} GB/s of both folders, ${(verified.seconds / read.seconds).toFixed(2)} × reading them with cat (${read.seconds.toFixed(2)} s), cpu ${verified.cpuSeconds.toFixed(1)} s, peak ${(verified.peakBytes / 2 ** 20).toFixed(0)} MiB`,
  );
}
clean();

const { donor: facts, totals } = rounds[0].report;
const seconds = (which) => median(rounds.map((round) => round[which].seconds));
const surgery = seconds("operated");
const ratio = median(rounds.map(({ copied, operated }) => operated.seconds / copied.seconds));
console.log();
printTable([
  ["", "cp -r + fsync", "surgery"],
  ["wall s (median)", seconds("copied").toFixed(2), surgery.toFixed(2)],
  [
    "GB/s read and written",
    (facts.total_size / 1e9 / seconds("copied")).toFixed(2),
    (facts.total_size / 1e9 / surgery).toFixed(2),
  ],
  ["G target weights/s", "", (totals.target_weights / 1e9 / surgery).toFixed(3)],
  [
    "cpu s (median)",
    median(rounds.map(({ copied }) => copied.cpuSeconds)).toFixed(1),
    median(rounds.map(({ operated }) => operated.cpuSeconds)).toFixed(1),
  ],
  ["peak MiB", "", (Math.max(...rounds.map(({ operated }) => operated.peakBytes)) / 2 ** 20).toFixed(0)],
]);
console.log(
  `ratio surgery / cp: ${ratio.toFixed(3)} (median of ${rounds.length} rounds, ${values.busy} other programs busy)`,
);
console.log(
  `killed ${(100 * totals.killed_of_target).toFixed(2)} % of ${totals.target_weights} target weights; the seed's tool took ${SEED_SECONDS} s for the full size: ${((SEED_SECONDS * (facts.total_size / 15_231_233_024)) / surgery).toFixed(0)} × as long per byte, on another machine`,
);
