import { readFileSync, writeFileSync } from "node:fs";

/**
 * Peak memory of this process since the last reset, in bytes: the kernel's own high-water mark on Linux. Where it
 * cannot be reset, `peak` is that of the process since its start.
 * source: proc(5), /proc/[pid]/clear_refs (5 resets VmHWM) and /proc/[pid]/status
 */
export function resetPeakMemory(): void {
  try {
    writeFileSync("/proc/self/clear_refs", "5");
  } catch {
    // Another system, or no permission: the mark of the whole process has to do.
  }
}

export function peakMemory(): number {
  try {
    const match = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync("/proc/self/status", "utf8"));
    if (match !== null) return Number(match[1]) * 1024;
  } catch {
    // No /proc: below.
  }
  // Kilobytes on every system that Node runs on.
  return process.resourceUsage().maxRSS * 1024;
}
