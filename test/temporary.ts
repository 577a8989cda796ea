import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll } from "vitest";

/** A folder for one test file, removed afterwards. */
export function temporaryFolder(): string {
  const path = mkdtempSync(join(tmpdir(), "physarium-test-"));
  afterAll(() => rmSync(path, { recursive: true, force: true }));
  return path;
}
