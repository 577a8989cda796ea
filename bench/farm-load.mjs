// 200 clients × 5 requests on two bodies with a budget that holds one, and kills in the middle:
//
//   node bench/farm-load.mjs [--clients 200] [--requests 5] [--tokens 16] [--kill child|farm]
//
// The real engine on operated loam, twice under two names. Prints what was lost (nothing may be), p50 and p99, swaps.
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { cpus, loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { hasLlamaLibrary } from "../dist/farm/engine/load-library.js";

const { values } = parseArgs({
  options: {
    clients: { type: "string", default: "200" },
    requests: { type: "string", default: "5" },
    tokens: { type: "string", default: "16" },
    kill: { type: "string" },
  },
});
const root = fileURLToPath(new URL("..", import.meta.url));
process.env.LLAMA_ENGINE ??= join(root, ".llama-engine");
if (!(await hasLlamaLibrary())) {
  console.log("skipped: node-llama-cpp is not installed; docs/farm.md says how");
  process.exit(0);
}
const main = join(root, "dist/cli/main.js");
const folder = mkdtempSync(join(tmpdir(), "physarium-farm-load-"));
const run = (...args) => {
  const { status, stdout, stderr } = spawnSync(process.execPath, [main, ...args], { encoding: "utf8" });
  if (status !== 0) throw new Error(`physarium ${args.join(" ")}: ${stderr}`);
  return stdout;
};

async function serve() {
  const server = spawn(process.execPath, [main, "farm", "serve", "--port", "0", "--file", folder], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const address = await new Promise((resolve, reject) => {
    server.stdout.setEncoding("utf8").once("data", (text) => resolve(text.trim()));
    server.once("exit", (code) => reject(new Error(`the server ended with ${code}`)));
  });
  return { server, address };
}

const alive = (pid) => existsSync(`/proc/${pid}`) && !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
const stateOf = () => JSON.parse(readFileSync(join(folder, "farm-state/tier_state.json"), "utf8"));
const journal = () =>
  readFileSync(join(folder, "farm-state/journal.jsonl"), "utf8")
    .split("\n")
    .filter((line) => line.endsWith("}"))
    .map((line) => JSON.parse(line));

try {
  run("surgery", join(root, "examples/donors/loam"), join(folder, "a"), "--quiet");
  run("surgery", join(root, "examples/donors/loam"), join(folder, "b"), "--survival", "0.3", "--quiet");
  const body = (source) => ({ source, forms: ["q8_0"], context: 128, sequences: 4, threads: 1, queue: 100_000 });
  const file = {
    version: 1,
    residence: "2s",
    budget: { RAM: "1GiB" },
    bodies: { a: body("a"), b: body("b") },
    organs: [],
  };
  for (const name of ["a", "b"]) file.organs.push({ name: `organ_${name}`, body: name, tier: "RAM" });
  const write = () => writeFileSync(join(folder, "organ_farm.json"), JSON.stringify(file));
  write();
  const admissions = ["a", "b"].map((name) =>
    JSON.parse(run("farm", "admit", name, "--file", folder, "--allow-absolute-paths", "--json", "--quiet")),
  );
  const [peak] = admissions.map(({ forms }) => forms[0].load.peak_bytes).sort((x, y) => y - x);
  // One and a half: two do not fit.
  file.budget.RAM = Math.floor(1.5 * peak);
  write();
  let { server, address } = await serve();
  const seconds = [];
  const statuses = {};
  let retried = 0;
  let acknowledged = 0;
  const ask = async (client, times) => {
    const model = (client + times) % 2 === 0 ? "organ_a" : "organ_b";
    const value = {
      model,
      max_tokens: Number(values.tokens),
      messages: [{ role: "user", content: `Client ${client} says: once` }],
    };
    const started = performance.now();
    for (;;) {
      const response = await fetch(`${address}/v1/chat/completions`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(value),
      }).catch(() => undefined);
      const status = response?.status ?? "connection lost";
      statuses[status] = (statuses[status] ?? 0) + 1;
      if (status === 200 && (await response.json().catch(() => undefined)) !== undefined) {
        acknowledged++;
        seconds.push((performance.now() - started) / 1000);
        return;
      }
      await response?.text().catch(() => {});
      // As a client does: again after what it was told.
      retried++;
      await sleep(1000 * Number(response?.headers.get("retry-after") ?? 0.2));
    }
  };
  const begun = performance.now();
  const clients = Array.from({ length: Number(values.clients) }, async (_, client) => {
    for (let times = 0; times < Number(values.requests); times++) await ask(client, times);
  });
  let killed = "";
  let listening = "";
  if (values.kill !== undefined) {
    while (seconds.length < (Number(values.clients) * Number(values.requests)) / 4) await sleep(20);
    const children = stateOf().children.filter(({ pid }) => alive(pid));
    const killedAt = performance.now();
    const count = seconds.length;
    if (values.kill === "child") for (const { pid } of children) process.kill(pid, "SIGKILL");
    else {
      server.kill("SIGKILL");
      const left = sleep(1500).then(() => children.filter(({ pid }) => alive(pid)).length);
      ({ server, address } = await serve());
      listening = `it listened again after ${((performance.now() - killedAt) / 1000).toFixed(2)} s, `;
      killed = `children alive 1.5 s after the farm's kill: ${await left}; `;
    }
    const killedTime = new Date(Date.now() - (performance.now() - killedAt)).toISOString();
    while (seconds.length <= count + 1) await sleep(5);
    const next = journal().filter(({ at }) => at > killedTime);
    const after = (event) =>
      (Date.parse(next.find((record) => record.event === event)?.at) - Date.parse(killedTime)) / 1000;
    const { seconds: loading } = next.find(({ event }) => event === "loaded");
    killed += `kill -9 of the ${values.kill}: ${listening}the next answer stood in the journal after ${after("answer").toFixed(2)} s, of which its load took ${loading.toFixed(2)} s; `;
  }
  await Promise.all(clients);
  const wall = (performance.now() - begun) / 1000;
  const children = stateOf().children.map(({ pid }) => pid);
  const ended = new Promise((resolve) => server.once("exit", resolve));
  server.kill("SIGTERM");
  await ended;
  const events = journal();
  const count = (event) => events.filter((record) => record.event === event).length;
  const answered = events.filter(({ event, organ }) => event === "answer" && organ?.startsWith("organ_")).length;
  seconds.sort((x, y) => x - y);
  const at = (q) => seconds[Math.min(seconds.length - 1, Math.floor(q * seconds.length))].toFixed(2);
  const wanted = Number(values.clients) * Number(values.requests);
  console.log(`${cpus().length} processors, load ${loadavg()[0].toFixed(1)}, node ${process.version}`);
  console.log(
    `budget ${(file.budget.RAM / 2 ** 20).toFixed(0)} MiB RAM, a body ${(peak / 2 ** 20).toFixed(0)} MiB measured`,
  );
  console.log(
    `${wanted} requests of ${values.clients} clients: ${seconds.length} answered, ${wanted - seconds.length} lost, ${retried} tried again`,
  );
  console.log(`statuses ${JSON.stringify(statuses)}; in the journal ${answered} answers, acknowledged ${acknowledged}`);
  console.log(
    `p50 ${at(0.5)} s, p99 ${at(0.99)} s, ${(wanted / wall).toFixed(1)} answers a second, ${wall.toFixed(1)} s`,
  );
  console.log(
    `evictions ${count("evicted")} (the end of the farm is one, too), loads ${count("loaded")}, crashes ${count("crashed")}`,
  );
  console.log(`${killed}children alive after the end: ${children.filter(alive).length}`);
  if (seconds.length !== wanted || answered < acknowledged) process.exitCode = 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
