import { stat } from "node:fs/promises";
import { attempt } from "../../checkpoint/file-layer.js";
import { PhysariumError } from "../../errors.js";
import type { Engine } from "../engine/engine.js";
import { digestOf } from "../state/state-folder.js";

/**
 * An engine that loads a file only if it is the one that was admitted. A file is read once; after that its size and
 * time say whether it is still the same.
 */
export function provenEngine(engine: Engine, digestOf: (file: string) => string | undefined): Engine {
  const seen = new Map<string, string>();
  return {
    async start(spec, onStart) {
      const expected = digestOf(spec.file);
      if (expected !== undefined) {
        const { size, mtimeMs } = await attempt("examining", spec.file, () => stat(spec.file));
        const mark = `${size} ${mtimeMs} ${expected}`;
        if (seen.get(spec.file) !== mark) {
          await requireDigest(spec.file, expected);
          seen.set(spec.file, mark);
        }
      }
      return engine.start(spec, onStart);
    },
  };
}

/** Throws `VERIFY_FORM` for a file that is not the one that was admitted. */
export async function requireDigest(file: string, expected: string): Promise<void> {
  const { sha256: found } = await digestOf(file);
  if (found === expected) return;
  throw new PhysariumError(
    "VERIFY_FORM",
    `${file}: its SHA-256 is ${found}, admitted was ${expected}; the file was changed, admit the body again or revert`,
    { file, found, expected },
  );
}
