// Cold caches and clean ends: what disk benches share.
import { execFileSync, spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";

/** Drop the page cache where that is permitted; says so once where not. */
let told = false;
export function dropCaches() {
  execFileSync("sync");
  try {
    writeFileSync("/proc/sys/vm/drop_caches", "3");
  } catch {
    if (!told) console.log("caches cannot be dropped here (needs root): figures are of a warm cache");
    told = true;
  }
}

/**
 * Run a command to its end: wall seconds, CPU seconds and peak resident memory of it and its threads, sampled from
 * /proc.
 */
export function timed(command, args, options = {}) {
  return new Promise((resolve, reject) => {
    const start = performance.now();
    const child = spawn(command, args, { stdio: ["ignore", "ignore", "inherit"], ...options });
    let peakBytes = 0;
    let cpuSeconds = 0;
    const sample = () => {
      try {
        const status = readFileSync(`/proc/${child.pid}/status`, "utf8");
        peakBytes = Math.max(peakBytes, 1024 * Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0));
        const stat = readFileSync(`/proc/${child.pid}/stat`, "utf8");
        const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
        cpuSeconds = Math.max(cpuSeconds, (Number(fields[11]) + Number(fields[12])) / 100);
      } catch {
        // It has just ended.
      }
    };
    const timer = setInterval(sample, 10);
    child.on("error", reject);
    child.on("close", (code) => {
      clearInterval(timer);
      const seconds = (performance.now() - start) / 1000;
      if (code === 0) resolve({ seconds, cpuSeconds, peakBytes });
      else reject(new Error(`${command} ${args.join(" ")} ended with ${code}`));
    });
  });
}

/** Keep `count` other programs busy with arithmetic; returns what ends them. */
export function startBusy(count) {
  const programs = Array.from({ length: count }, () => spawn(process.execPath, ["-e", "for(;;)Math.sqrt(2)"]));
  return () => {
    for (const program of programs) program.kill("SIGKILL");
  };
}
