import type { ChangedToken } from "../record/quality.js";
import type { Trace } from "./divergence.js";
import type { ScoredSequence } from "./text/protocols.js";
import type { TextTokenizer } from "./text/tokenizer.js";

/** Places shown: as many as one reads. */
const SHOWN = 12;
/** Tokens before a place that say where it stands. */
const CONTEXT = 12;

/** The places where the model differs most from its donor, by KL divergence, with their surroundings as text. */
export async function changedTokens(
  sequences: readonly ScoredSequence[],
  { donor, model, kl }: { readonly donor: Trace; readonly model: Trace; readonly kl: Float64Array },
  tokenizer: TextTokenizer,
): Promise<ChangedToken[]> {
  const order = Array.from(kl.keys()).sort((a, b) => kl[b] - kl[a] || a - b);
  const text = (ids: readonly number[]): Promise<string> => tokenizer.decode(ids);
  // Special tokens have no text of their own; their names are as good.
  const named = async (id: number): Promise<string> => (await text([id])) || ((await tokenizer.textOf(id)) ?? `#${id}`);
  return Promise.all(
    order.slice(0, SHOWN).map(async (position) => {
      const { ids, at } = placeOf(sequences, position);
      return {
        position,
        before: await text(ids.slice(Math.max(0, at - CONTEXT), at)),
        token: await named(ids[at]),
        kl: kl[position],
        p_donor: Math.exp(-donor.nll[position]),
        p_model: Math.exp(-model.nll[position]),
        top_donor: await named(donor.top[position]),
        top_model: await named(model.top[position]),
      };
    }),
  );
}

/** The sequence that the `position`-th prediction belongs to, and the place of its token in it. */
function placeOf(sequences: readonly ScoredSequence[], position: number): { ids: readonly number[]; at: number } {
  let offset = 0;
  for (const { ids, scoreFrom } of sequences) {
    const predictions = ids.length - scoreFrom;
    if (position < offset + predictions) return { ids, at: scoreFrom + position - offset };
    offset += predictions;
  }
  throw new RangeError(`no prediction ${position}`);
}
