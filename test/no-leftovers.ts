import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";

const PREFIX = "physarium-suite-";

/**
 * The whole suite has a temporary folder of its own, and what tests or commands leave in it fails the run: nothing of
 * physarium stays in the temporary
 * folder, ever.
 */
export default function setup(): () => void {
  // Once for all projects: one folder in another makes paths too long for the sockets that Chromium puts there.
  if (basename(tmpdir()).startsWith(PREFIX)) return () => {};
  const folder = mkdtempSync(join(tmpdir(), PREFIX));
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
