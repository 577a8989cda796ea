import { readFile } from "node:fs/promises";

/** Resident bytes of a process; 0 once it is gone, or where the system does not say. */
export async function residentBytes(pid: number): Promise<number> {
  const { resident } = await memoryOf(pid);
  return resident;
}

/** Resident bytes now and at their highest, as Linux counts them. */
export async function memoryOf(pid: number): Promise<{ resident: number; peak: number }> {
  const text = await readFile(`/proc/${pid}/status`, "utf8").catch(() => "");
  const field = (name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(text)?.[1] ?? 0) * 1024;
  return { resident: field("VmRSS"), peak: field("VmHWM") };
}
