import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll } from "vitest";

const made: string[] = [];

function removeAll(): void {
  for (const path of made.splice(0)) rmSync(path, { recursive: true, force: true });
}

// Registered for the whole file, whoever asks for a folder and when; a file whose tests are all skipped runs no hooks, but its process ends.
afterAll(removeAll);
process.on("exit", removeAll);

/** A folder for one test file, removed afterwards. */
export function temporaryFolder(): string {
  const path = mkdtempSync(join(tmpdir(), "physarium-test-"));
  made.push(path);
  return path;
}
