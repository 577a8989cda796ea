import { PhysariumError } from "../../errors.js";

/** What every scheduler is told of the work. */
export interface JobOptions {
  /** The output that the parts are of. */
  readonly outputPath: string;
  /** `<output>.parts`, where logs go. */
  readonly folder: string;
  /** The parts to be done, ascending. */
  readonly parts: readonly number[];
  /** From parts.json. */
  readonly partCount: number;
  readonly name: string;
  readonly cpus: number;
  /** As Slurm writes it: a number with K, M, G or T, powers of 1024. */
  readonly memory: string;
  /** As Slurm writes it: minutes, h:m:s, d-h:m:s. */
  readonly time: string;
  /** At most so many parts at once. */
  readonly throttle?: number;
  /** How a node calls physarium: words of a shell. */
  readonly command: string;
}

/** How often a part that ended with 75 is tried again. */
export const RETRIES = 5;

/** Exit code of what is worth another try (EX_TEMPFAIL of sysexits.h). */
export const TRY_AGAIN = 75;

/** A name that every scheduler takes: lower case, digits and hyphens, at most 40 characters. */
export function jobName(outputPath: string): string {
  const base = outputPath.slice(outputPath.lastIndexOf("/") + 1).toLowerCase();
  const words = base.replace(/[^a-z0-9]+/g, "-").slice(0, 30);
  return `physarium-${words}`.replace(/-+/g, "-").replace(/-$/, "");
}

/** Bytes as Slurm writes them, checked; without a unit they are MiB. Throws `USAGE_PARAM`. */
export function checkMemory(text: string): { readonly amount: number; readonly unit: "K" | "M" | "G" | "T" } {
  const match = /^([1-9]\d*)([KMGT]?)$/i.exec(text);
  if (match === null) {
    throw new PhysariumError("USAGE_PARAM", `--mem is "${text}", expected a number with K, M, G or T, as in 2G`);
  }
  return { amount: Number(match[1]), unit: (match[2].toUpperCase() || "M") as "K" | "M" | "G" | "T" };
}

/** Seconds of a time as Slurm writes it. Throws `USAGE_PARAM`. */
export function secondsOf(text: string): number {
  const match = /^(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?$/.exec(text);
  const [, days, ...fields] = match ?? [];
  const numbers = fields.filter((field) => field !== undefined).map(Number);
  // Without days one field is minutes, two are minutes and seconds; with them hours come first.
  const [hours, minutes, seconds] =
    days !== undefined
      ? [numbers[0], numbers[1] ?? 0, numbers[2] ?? 0]
      : numbers.length === 3
        ? numbers
        : [0, numbers[0], numbers[1] ?? 0];
  const total = Number(days ?? 0) * 86_400 + hours * 3600 + minutes * 60 + seconds;
  if (match !== null && total > 0) return total;
  throw new PhysariumError(
    "USAGE_PARAM",
    `--time is "${text}", expected minutes, hours:minutes:seconds or days-hours, as in 1:00:00`,
  );
}
