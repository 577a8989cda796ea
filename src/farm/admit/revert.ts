import { PhysariumError } from "../../errors.js";
import { Journal } from "../state/journal.js";
import type { StateFolder } from "../state/state-folder.js";

/** Serve the accepted generation before the current one again. Returns both. Throws `USAGE_NOTHING_TO_REVERT`. */
export async function revertBody(state: StateFolder, body: string): Promise<{ from: number; to: number }> {
  const current = await state.currentGeneration(body);
  const former = (await state.accepted(body)).filter(({ generation }) => generation < (current ?? 0)).at(-1);
  if (current === undefined || former === undefined) {
    throw new PhysariumError(
      "USAGE_NOTHING_TO_REVERT",
      current === undefined
        ? `${body}: nothing was admitted yet`
        : `${body}: there is no generation before ${current} whose files are kept`,
      { body },
    );
  }
  const journal = await Journal.open(state.journal);
  try {
    await state.setCurrent(body, former.generation);
    await journal.append("reverted", { body, generation: former.generation, former: current });
  } finally {
    await journal.close();
  }
  return { from: current, to: former.generation };
}
