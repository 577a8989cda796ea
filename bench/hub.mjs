// A donor that is streamed: the same bytes, the wall of its download, little memory, kills.
//   node bench/hub.mjs --donor FOLDER --folder SCRATCH [--rate 200e6] [--kills 40] [--rounds 2] [--skip-rate]
// The fake Hub is a process of its own; the rate is that of its wire. The download is `fetch` into an empty cache.
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { timed } from "./cold.mjs";
import { median, printMachine, printTable } from "./machine.mjs";

const { values } = parseArgs({
  options: {
    donor: { type: "string" },
    folder: { type: "string" },
    rate: { type: "string", default: "200e6" },
    kills: { type: "string", default: "40" },
    rounds: { type: "string", default: "2" },
    flow: { type: "string", default: "magnitude" },
    "skip-rate": { type: "boolean", default: false },
  },
});
if (!values.donor || !values.folder) throw new Error("give --donor <folder> and --folder <scratch>");
const MAIN = "dist/cli/main.js";
const cache = join(values.folder, "cache");
const local = join(values.folder, "local");
const output = join(values.folder, "streamed");
mkdirSync(values.folder, { recursive: true });
const clean = (...paths) => {
  for (const path of paths) rmSync(path, { recursive: true, force: true });
};

async function startHub(rate) {
  const child = spawn(process.execPath, ["bench/fake-hub.mjs", `org/donor=${values.donor}`, "--rate", rate], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const endpoint = await new Promise((resolve, reject) => {
    child.stdout.once("data", (text) => resolve(String(text).trim()));
    child.once("exit", (code) => reject(new Error(`the fake Hub ended with ${code}`)));
  });
  Object.assign(process.env, { HF_ENDPOINT: endpoint, HF_HUB_CACHE: cache, HF_TOKEN: "" });
  return () => child.stdin.end();
}

const surgery = (...more) => [
  MAIN,
  "surgery",
  "hf://org/donor",
  output,
  "--stream",
  "--quiet",
  "--flow",
  values.flow,
  ...more,
];

function sameFiles() {
  const names = readdirSync(local).filter((name) => name !== "physarium" && name !== "README.md");
  return names.every((name) => Buffer.compare(readFileSync(join(local, name)), readFileSync(join(output, name))) === 0);
}

printMachine();
clean(local, `${local}.partial`);
const { seconds: here } = await timed(process.execPath, [
  MAIN,
  "surgery",
  values.donor,
  local,
  "--quiet",
  "--flow",
  values.flow,
]);
console.log(`local run ${here.toFixed(2)} s`);

if (!values["skip-rate"]) {
  const stop = await startHub(values.rate);
  const rows = [["round", "fetch s", "stream s", "ratio", "peak MiB", "same bytes"]];
  const ratios = [];
  // The fake Hub hashes its files once, when it is first asked for them.
  await timed(process.execPath, [MAIN, "plan", "hf://org/donor", "--json"]);
  for (let round = 1; round <= Number(values.rounds); round++) {
    clean(cache, output, `${output}.partial`);
    const { seconds: fetched } = await timed(process.execPath, [MAIN, "fetch", "hf://org/donor", "--quiet"]);
    clean(cache);
    const { seconds: streamed, peakBytes } = await timed(process.execPath, surgery());
    ratios.push(streamed / fetched);
    rows.push([
      round,
      fetched.toFixed(2),
      streamed.toFixed(2),
      (streamed / fetched).toFixed(3),
      (peakBytes / 2 ** 20).toFixed(0),
      sameFiles(),
    ]);
  }
  stop();
  console.log(`wire limited to ${Number(values.rate) / 1e6} MB/s`);
  printTable(rows);
  console.log(`median ratio ${median(ratios).toFixed(3)}\n`);
}

const kills = Number(values.kills);
if (kills > 0) {
  const stop = await startHub(values.rate);
  clean(cache, output, `${output}.partial`);
  const { seconds: whole } = await timed(process.execPath, surgery());
  clean(output);
  let done = 0;
  let began = 0;
  for (; done < kills && !existsSync(output); done++) {
    // Later and later, so that runs get beyond their start; a finished one begins anew.
    const wait = 600 + Math.random() * Math.min(whole * 1000, 1500 + whole * 400);
    const child = spawn(process.execPath, surgery("--resume"), { stdio: "ignore" });
    const ended = new Promise((resolve) => child.once("exit", resolve));
    await Promise.race([ended, new Promise((wake) => setTimeout(wake, wait))]);
    child.kill("SIGKILL");
    await ended;
    if (!existsSync(output)) continue;
    began++;
    console.log(`finished after ${done + 1} runs; same bytes: ${sameFiles()}`);
    clean(output);
  }
  if (!existsSync(output)) await timed(process.execPath, surgery("--resume"));
  console.log(
    `${done} runs were killed or finished (${began} finished and began anew); the last: same bytes: ${sameFiles()}`,
  );
  stop();
}
clean(output, local, cache);
