// A real Slurm of one node in a folder of its own: munged, slurmctld and slurmd from Debian's packages, as root, without
// systemd and without touching /etc. Ended by its pid files.
//
//   apt-get install --no-install-recommends slurmctld slurmd slurm-client munge
//   node scripts/slurm-one-node.mjs start /tmp/one-node      prints the environment that its commands need
//   node scripts/slurm-one-node.mjs stop /tmp/one-node
import { execFileSync, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { availableParallelism, hostname } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const PATH = `/usr/sbin:${process.env.PATH}`;
const DAEMONS = ["munged", "slurmctld", "slurmd"];

/** Why a Slurm cannot be started here; empty where it can. */
export function whyNot() {
  if (process.getuid?.() !== 0) return "it wants root";
  const missing = [...DAEMONS, "sbatch", "squeue", "scontrol"].filter(
    (name) => spawnSync("which", [name], { env: { ...process.env, PATH } }).status !== 0,
  );
  return missing.length === 0
    ? ""
    : `${missing.join(", ")} not installed (Debian: slurmctld slurmd slurm-client munge)`;
}

/** Start it; returns the environment for sbatch, squeue and scontrol once the node is idle. */
export async function startSlurm(folder, { cpus = 2 * availableParallelism(), seconds = 30 } = {}) {
  for (const name of ["state", "spool"]) mkdirSync(join(folder, name), { recursive: true });
  const at = (name) => join(folder, name);
  const [controlPort, nodePort] = [await freePort(), await freePort()];
  writeFileSync(at("munge.key"), randomBytes(128), { mode: 0o400 });
  writeFileSync(
    at("slurm.conf"),
    `ClusterName=one
SlurmctldHost=${hostname()}(127.0.0.1)
SlurmctldPort=${controlPort}
SlurmdPort=${nodePort}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=${at("munge.socket")}
CryptoType=crypto/munge
StateSaveLocation=${at("state")}
SlurmdSpoolDir=${at("spool")}
SlurmctldPidFile=${at("slurmctld.pid")}
SlurmdPidFile=${at("slurmd.pid")}
SlurmctldLogFile=${at("slurmctld.log")}
SlurmdLogFile=${at("slurmd.log")}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerParameters=sched_min_interval=100000,batch_sched_delay=0,defer_batch
ReturnToService=2
MpiDefault=none
KillWait=5
MinJobAge=300
NodeName=${hostname()} NodeAddr=127.0.0.1 CPUs=${cpus} RealMemory=8192 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
`,
  );
  const env = { ...process.env, PATH, SLURM_CONF: at("slurm.conf") };
  const munge = ["--force", `--key-file=${at("munge.key")}`, `--socket=${at("munge.socket")}`];
  const own = [`--pid-file=${at("munged.pid")}`, `--log-file=${at("munged.log")}`, `--seed-file=${at("munged.seed")}`];
  execFileSync("munged", [...munge, ...own], { env, stdio: ["ignore", "ignore", "pipe"] });
  execFileSync("slurmctld", ["-c"], { env, stdio: ["ignore", "ignore", "pipe"] });
  execFileSync("slurmd", [], { env, stdio: ["ignore", "ignore", "pipe"] });
  for (const until = Date.now() + 1000 * seconds; ; ) {
    const { stdout } = spawnSync("sinfo", ["-h", "-o", "%T"], { env, encoding: "utf8" });
    if (stdout?.trim() === "idle") return env;
    if (Date.now() > until) {
      const log = existsSync(at("slurmd.log")) ? readFileSync(at("slurmd.log"), "utf8").slice(-2000) : "";
      stopSlurm(folder);
      throw new Error(`the node is "${stdout?.trim()}" after ${seconds} s\n${log}`);
    }
    await new Promise((wake) => setTimeout(wake, 100));
  }
}

/** End its daemons, by their pid files alone. */
export function stopSlurm(folder) {
  for (const name of [...DAEMONS].reverse()) {
    const path = join(folder, `${name}.pid`);
    if (!existsSync(path)) continue;
    const pid = Number(readFileSync(path, "utf8"));
    if (pid > 1) end(pid);
    rmSync(path, { force: true });
  }
}

function end(pid) {
  try {
    process.kill(pid, "SIGTERM");
    for (let waits = 0; waits < 100; waits++) {
      process.kill(pid, 0);
      spawnSync("sleep", ["0.1"]);
    }
    process.kill(pid, "SIGKILL");
  } catch {
    // It is gone.
  }
}

function freePort() {
  return new Promise((done, fail) => {
    const server = createServer();
    server.once("error", fail);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => done(port));
    });
  });
}

if (realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const [command, folder] = process.argv.slice(2);
  if (command === "start" && folder !== undefined) {
    const reason = whyNot();
    if (reason !== "") throw new Error(reason);
    const { SLURM_CONF } = await startSlurm(resolve(folder));
    console.log(`export SLURM_CONF=${SLURM_CONF}`);
  } else if (command === "stop" && folder !== undefined) stopSlurm(resolve(folder));
  else console.error("node scripts/slurm-one-node.mjs start|stop <folder>");
}
