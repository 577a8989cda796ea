import { readFileSync } from "node:fs";

/** What `ulimit` allows this process of the kernel's resource of this name; infinite where nobody can say. */
export function processLimit(name: "Max open files" | "Max address space"): number {
  const line = read("/proc/self/limits")
    .split("\n")
    .find((each) => each.startsWith(name));
  const soft = line?.slice(name.length).trim().split(/\s+/)[0];
  return /^\d+$/.test(soft ?? "") ? Number(soft) : Number.POSITIVE_INFINITY;
}

/** Bytes of address space that this process has taken, used or not; 0 where nobody can say. */
export function addressSpaceTaken(): number {
  return 1024 * Number(/^VmSize:\s+(\d+) kB$/m.exec(read("/proc/self/status"))?.[1] ?? 0);
}

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
