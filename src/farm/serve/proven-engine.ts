import { stat } from "node:fs/promises";
import { attempt } from "../../checkpoint/file-layer.js";
import { PhysariumError } from "../../errors.js";
import type { Engine } from "../engine/engine.js";
import { digestOf } from "../state/state-folder.js";

/**
 * An engine that loads a file only if it is the one that was admitted. A file is read once; after that its size and
 * time say whether it is still the same. The process is started meanwhile; it is told of the file when that is proven.
 */
export function provenEngine(engine: Engine, digestOf: (file: string) => string | undefined): Engine {
  const seen = new Map<string, string>();
  const prove = async (file: string): Promise<void> => {
    const expected = digestOf(file);
    if (expected === undefined) return;
    const { size, mtimeMs } = await attempt("examining", file, () => stat(file));
    const mark = `${size} ${mtimeMs} ${expected}`;
    if (seen.get(file) === mark) return;
    await requireDigest(file, expected);
    seen.set(file, mark);
  };
  return {
    start(spec, onStart) {
      const proven = prove(spec.file);
      // Its failure is told by whoever waits for it below, if the process comes so far.
      proven.catch(() => {});
      return engine.start(spec, async (pid) => {
        await onStart(pid);
        await proven;
      });
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
