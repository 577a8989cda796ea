import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/**
 * The whole suite has a temporary folder of its own, and what tests or commands leave in it fails the run: nothing of
 * physarium stays in the temporary
 * folder, ever.
 */
export default function setup(): () => void {
  const folder = mkdtempSync(join(tmpdir(), "physarium-suite-"));
  process.env.TMPDIR = folder;
  return () => {
    const left = readdirSync(folder).filter((name) => name.startsWith("physarium") || name.startsWith("mat-debug"));
    rmSync(folder, { recursive: true, force: true });
    if (left.length === 0) return;
    // An error thrown here is printed, and the run passes all the same.
    process.exitCode = 1;
    throw new Error(`left in the temporary folder: ${left.join(", ")}`);
  };
}
