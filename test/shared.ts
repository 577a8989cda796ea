import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** The developers' shared folder, beside the project; tests that need it skip where it is absent. */
export const SHARED = fileURLToPath(new URL("../../shared/", import.meta.url));

export const hasShared = existsSync(SHARED);
if (!hasShared) console.warn("../shared is absent: tests that read it are skipped");

export const LOAM = fileURLToPath(new URL("../examples/donors/loam", import.meta.url));
export const FIXTURES = fileURLToPath(new URL("./fixtures/", import.meta.url));
