/** Coverage over the matrices of a decoder's layers, operated on or not: "100 % of the targets" says nothing of what was no target. */
export interface DecoderCoverage {
  /** Elements of all matrices in the decoder's layers: targets, and what stays of them, routers and convolutions included. */
  readonly decoder_weights: number;
  /** Of these, in targets. */
  readonly decoder_target_weights: number;
  readonly decoder_fraction: number;
  /** Matrices of decoder layers that are no targets, the largest share first. */
  readonly untouched: readonly UntouchedRow[];
}

export interface UntouchedRow {
  /** Names that differ in numbers alone, with `N` for these. */
  readonly pattern: string;
  readonly tensors: number;
  readonly weights: number;
  /** Of `decoder_weights`. */
  readonly share: number;
  readonly why: string;
}

/** A matrix of a decoder layer; `why` where it stays as it is. */
export interface DecoderTensor {
  readonly name: string;
  readonly weights: number;
  readonly why: string | undefined;
}

/** Add up a decoder's matrices; those that stay are grouped by name and reason. `undefined` entries are skipped. */
export function decoderCoverage(tensors: Iterable<DecoderTensor | undefined>): DecoderCoverage {
  let decoder_weights = 0;
  let decoder_target_weights = 0;
  const groups = new Map<string, { pattern: string; tensors: number; weights: number; why: string }>();
  for (const tensor of tensors) {
    if (tensor === undefined) continue;
    const { name, weights, why } = tensor;
    decoder_weights += weights;
    if (why === undefined) {
      decoder_target_weights += weights;
      continue;
    }
    const pattern = name.replace(/(^|\.)\d+(?=\.|$)/g, "$1N");
    const key = `${pattern}\n${why}`;
    const group = groups.get(key);
    if (group === undefined) groups.set(key, { pattern, tensors: 1, weights, why });
    else {
      group.tensors++;
      group.weights += weights;
    }
  }
  const untouched = [...groups.values()]
    .sort((a, b) => b.weights - a.weights || (a.pattern < b.pattern ? -1 : 1))
    .map(({ pattern, tensors: count, weights, why }) => ({
      pattern,
      tensors: count,
      weights,
      share: weights / decoder_weights,
      why,
    }));
  return {
    decoder_weights,
    decoder_target_weights,
    decoder_fraction: decoder_weights === 0 ? 0 : decoder_target_weights / decoder_weights,
    untouched,
  };
}
