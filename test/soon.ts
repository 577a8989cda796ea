import { availableParallelism, loadavg } from "node:os";

/** Seconds that stand for one of a machine with nothing else to do: as many as its processors are asked for at once. */
export function aSecond(): number {
  return Math.max(1, loadavg()[0] / availableParallelism());
}
