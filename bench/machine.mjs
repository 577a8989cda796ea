// What every bench prints first: figures mean nothing without the machine and its state.
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { cpus, loadavg, totalmem } from "node:os";

export function printMachine() {
  const commit = run("git", ["rev-parse", "--short", "HEAD"]);
  const dirty = run("git", ["status", "--porcelain"]) === "" ? "" : " (with changes)";
  const load = loadavg()
    .map((value) => value.toFixed(2))
    .join(" ");
  console.log(
    `${cpus()[0].model}, ${cpus().length} processors, ${(totalmem() / 2 ** 30).toFixed(0)} GiB, Node ${process.version}, commit ${commit}${dirty}, load ${load}, ${new Date().toISOString()}\n`,
  );
}

function run(command, args) {
  try {
    return execFileSync(command, args, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim();
  } catch {
    return "unknown";
  }
}

/**
 * Seconds of processor time that each thread of this process has used, the main thread first, then the busiest; nothing
 * where the system does not tell (only Linux does). The kernel counts in hundredths.
 */
export function threadSeconds() {
  const seconds = (id) => {
    const stat = readFileSync(`/proc/self/task/${id}/stat`, "utf8");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return (Number(fields[11]) + Number(fields[12])) / 100;
  };
  try {
    const others = readdirSync("/proc/self/task").filter((id) => id !== `${process.pid}`);
    return [seconds(process.pid), ...others.map(seconds).sort((a, b) => b - a)];
  } catch {
    return [];
  }
}

/** Median of numbers. */
export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** Rows of text in columns, the first left, the others right. */
export function printTable(rows) {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => String(row[column]).length)));
  for (const row of rows)
    console.log(
      row.map((cell, i) => (i === 0 ? String(cell).padEnd(widths[i]) : String(cell).padStart(widths[i]))).join("  "),
    );
  console.log();
}
