// kill -9 at random times, in a pid namespace of its own each time, of every command that writes; then the next run.
//
//   node bench/kills.mjs [--kills 20] [--seed 1] [--only surgery,pack,…]
//
// After each kill: nothing but a whole output may stand under the final name. After the next run of the same command
// (with --resume where it has that): exit 0, the bytes of an undisturbed run, nothing beside them or in the temporary
// folder. Exit 1 where that is not so. Where `unshare` is not allowed it runs without namespaces and says so.
import { spawn, spawnSync } from "node:child_process";
import { createHash, generateKeyPairSync } from "node:crypto";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const MAIN = join(ROOT, "dist/cli/main.js");
const LOAM = join(ROOT, "examples/donors/loam");
const flag = (name, usual) => {
  const at = process.argv.indexOf(`--${name}`);
  return at < 0 ? usual : process.argv[at + 1];
};
const kills = Number(flag("kills", "20"));
const seed = Number(flag("seed", "1"));
const only = flag("only", "").split(",").filter(Boolean);

const work = mkdtempSync(join(tmpdir(), "physarium-kills-"));
const at = (name) => join(work, name);
const place = at("place");
const temporary = at("tmp");
mkdirSync(temporary);
const text = at("text.txt");
writeFileSync(text, "Once upon a time there was a little tree that wanted to see the sea. ".repeat(80));
const few = ["--samples", "2", "--window", "32", "--threads", "1"];
const compared = [
  ...["--methods", "magnitude,wanda", "--sparsity", "0.5", "--calibration", text, "--samples", "2"],
  ...["--limit", "2", "--window", "32"],
];

/** Name → arguments with {o} for the output, what the next run has in addition, what stands when it is done. */
const COMMANDS = {
  surgery: { args: ["surgery", LOAM, "{o}", "--workers", "1"], next: ["--resume"] },
  v2: {
    args: ["surgery", LOAM, "{o}", "--flow", "activation", "--target-sparsity", "0.5", "--calibration", text, ...few],
    next: ["--resume"],
  },
  pack: { args: ["pack", LOAM, "{o}", "--workers", "1"], next: ["--resume"] },
  unpack: { args: ["unpack", "{packed}", "{o}", "--workers", "1"], next: ["--resume"] },
  export: { args: ["export", LOAM, "{o}", "--type", "q8_0"], output: "out.gguf" },
  "export calibrated": {
    args: ["export", LOAM, "{o}", "--type", "q4_0", "--calibration", text, "--samples", "2", "--window", "32"],
    output: "out.gguf",
  },
  "export sparse": { args: ["export", "{operated}", "{o}", "--format", "compressed-tensors"] },
  import: { args: ["import", "{gguf}", "{o}"] },
  synth: { args: ["synth", LOAM, "{o}", "--seed", "7"] },
  calibrate: { args: ["calibrate", LOAM, "--text", text, "--out", "{o}", ...few], output: "out.safetensors" },
  compare: { args: ["compare", LOAM, "--text", text, "--out", "{o}", ...compared], loose: true },
  sign: { args: ["sign", "{o}", "--key", at("key.pem")], prepared: "operated", loose: true },
};

const namespaces = spawnSync("unshare", ["--pid", "--fork", "--mount-proc", "true"]).status === 0;
if (!namespaces) console.log("pid namespaces are not allowed here: kills without them");

function start(args) {
  const command = [process.execPath, MAIN, ...args, "--quiet"];
  const wrapped = namespaces ? ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", ...command] : command;
  const child = spawn(wrapped[0], wrapped.slice(1), {
    stdio: ["ignore", "ignore", "pipe"],
    env: { ...process.env, TMPDIR: temporary },
  });
  let stderr = "";
  child.stderr.on("data", (piece) => (stderr += piece));
  return { child, ended: new Promise((resolve) => child.on("close", (code) => resolve({ code, stderr }))) };
}

async function run(args) {
  const started = performance.now();
  const { code, stderr } = await start(args).ended;
  return { code, stderr, seconds: (performance.now() - started) / 1000 };
}

function digest(path) {
  const hash = createHash("sha256");
  const isFolder = statSync(path).isDirectory();
  const names = isFolder ? readdirSync(path, { recursive: true, encoding: "utf8" }).sort() : [""];
  for (const name of names) {
    const file = join(path, name);
    if (name.startsWith("physarium/") || name === "physarium" || statSync(file).isDirectory()) continue;
    hash.update(`${name}\0`).update(readFileSync(file));
  }
  return hash.digest("hex");
}

let state = seed >>> 0;
function random() {
  state = (state + 0x6d2b79f5) >>> 0;
  let t = Math.imul(state ^ (state >>> 15), state | 1);
  t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
}

async function setUp() {
  const { privateKey } = generateKeyPairSync("ed25519");
  writeFileSync(at("key.pem"), privateKey.export({ type: "pkcs8", format: "pem" }), { mode: 0o600 });
  const wanted = Object.entries(COMMANDS).filter(([name]) => only.length === 0 || only.includes(name));
  const needs = JSON.stringify(wanted);
  for (const [token, args] of [
    ["packed", ["pack", LOAM, at("packed")]],
    ["operated", ["surgery", LOAM, at("operated")]],
    ["gguf", ["export", LOAM, at("in.gguf"), "--type", "q8_0"]],
  ]) {
    if (!needs.includes(token)) continue;
    const { code, stderr } = await run(args);
    if (code !== 0) throw new Error(`${args[0]}: ${stderr}`);
  }
  return wanted;
}

async function measure(name, { args, next = [], output = "out", prepared, loose = false }) {
  const path = join(place, output);
  const filled = args.map((each) =>
    each
      .replace("{o}", path)
      .replace("{packed}", at("packed"))
      .replace("{operated}", at("operated"))
      .replace("{gguf}", at("in.gguf")),
  );
  const fresh = () => {
    rmSync(place, { recursive: true, force: true });
    mkdirSync(place);
    if (prepared !== undefined) cpSync(at(prepared), path, { recursive: true });
  };
  fresh();
  const whole = await run(filled);
  if (whole.code !== 0) throw new Error(`${name}: ${whole.stderr}`);
  const expected = loose ? undefined : digest(path);
  const inside = (folder) => (statSync(folder).isDirectory() ? readdirSync(folder).sort() : []);
  const listing = JSON.stringify([
    readdirSync(place).sort(),
    inside(path),
    prepared === undefined ? [] : inside(join(path, "physarium")),
  ]);
  const counts = { killed: 0, whole: 0, faults: [] };
  while (counts.killed < kills) {
    fresh();
    const { child, ended } = start(filled);
    setTimeout(() => child.kill("SIGKILL"), 1000 * whole.seconds * (0.15 + 0.8 * random()));
    const { code } = await ended;
    if (code === 0) counts.whole++;
    else counts.killed++;
    // The namespace goes with its first process; the kernel may take a moment for the rest.
    if (code !== 0 && !loose && existsSync(path) && digest(path) !== expected) counts.faults.push("half an output");
    const after = await run([...filled, ...(code === 0 && next.length === 0 ? ["--overwrite"] : next)]);
    const mayRefuse = code === 0 || existsSync(path);
    if (after.code !== 0 && !(mayRefuse && /USAGE_(OUTPUT_EXISTS|ARGUMENT|SIGNED)/.test(after.stderr))) {
      counts.faults.push(`next run: exit ${after.code}: ${after.stderr.trim().slice(0, 300)}`);
    } else if (expected !== undefined && digest(path) !== expected) counts.faults.push("other bytes");
    const found = JSON.stringify([
      readdirSync(place).sort(),
      inside(path),
      prepared === undefined ? [] : inside(join(path, "physarium")),
    ]);
    if (found !== listing) counts.faults.push(`left: ${found}`);
    const forgotten = readdirSync(temporary);
    if (forgotten.length > 0) counts.faults.push(`left in the temporary folder: ${forgotten.join(", ")}`);
  }
  const seconds = whole.seconds.toFixed(1);
  console.log(`| ${name} | ${counts.killed} | ${counts.whole} | ${counts.faults.length} | ${seconds} |`);
  for (const fault of counts.faults) console.log(`  ${fault}`);
  return counts.faults.length;
}

try {
  const wanted = await setUp();
  console.log(`seed ${seed}, load ${loadavg()[0].toFixed(1)}, Node ${process.versions.node}`);
  console.log("| command | killed | ended before | faults | undisturbed, s |\n| --- | --- | --- | --- | --- |");
  let faults = 0;
  for (const [name, command] of wanted) faults += await measure(name, command);
  process.exitCode = faults === 0 ? 0 : 1;
} finally {
  rmSync(work, { recursive: true, force: true });
}
