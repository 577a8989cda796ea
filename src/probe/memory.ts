import { totalmem } from "node:os";

/**
 * What this process may have: the machine's memory, or its container's (cgroup), in bytes. `PHYSARIUM_MEMORY_LIMIT`
 * (bytes) says less, for a machine that others use, too.
 */
export function memoryLimitBytes(): number {
  const said = Number(process.env.PHYSARIUM_MEMORY_LIMIT);
  const constrained = process.constrainedMemory();
  return Math.min(
    Number.isFinite(said) && said > 0 ? said : Number.POSITIVE_INFINITY,
    // 0 and undefined: not known. Without a limit the system names one that no machine has.
    constrained > 0 ? constrained : Number.POSITIVE_INFINITY,
    totalmem(),
  );
}

/** What may be taken when nobody says: half of that. */
export function defaultMemoryBytes(): number {
  return memoryLimitBytes() / 2;
}
