import { printable } from "../errors.js";
import type { LoadWarning } from "../probe/load-warnings.js";

/** Warnings of a model as it was loaded, on stderr: what a command measures then is still to come. */
export function sayWarnings(warnings: readonly LoadWarning[], quiet = false): void {
  if (quiet) return;
  for (const { code, message } of warnings) process.stderr.write(`${printable(`warning: ${message} [${code}]`)}\n`);
}
