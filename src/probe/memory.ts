import { totalmem } from "node:os";

/** What may be taken when nobody says: half of what the machine, or the container around us, has. */
export function defaultMemoryBytes(): number {
  const constrained = process.constrainedMemory();
  return Math.min(constrained > 0 ? constrained : Number.POSITIVE_INFINITY, totalmem()) / 2;
}
