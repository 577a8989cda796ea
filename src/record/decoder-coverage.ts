/**
 * Coverage over the matrices of a decoder's layers, operated on or not: "100 % of the targets" says nothing of what was
 * no target.
 */
export interface DecoderCoverage {
  /**
   * Elements of all matrices in the decoder's layers: targets, and what stays of them, routers and convolutions
   * included.
   */
  readonly weights: number;
  /** Of these, in targets. */
  readonly target_weights: number;
  readonly fraction: number;
  /** Matrices of decoder layers that are no targets, the largest share first. */
  readonly untouched: readonly UntouchedRow[];
}

export interface UntouchedRow {
  /** Names that differ in numbers alone, with `N` for these. */
  readonly pattern: string;
  readonly tensors: number;
  readonly weights: number;
  /** Of all weights of the decoder's matrices. */
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
  let all = 0;
  let targeted = 0;
  const groups = new Map<string, { pattern: string; tensors: number; weights: number; why: string }>();
  for (const tensor of tensors) {
    if (tensor === undefined) continue;
    const { name, weights, why } = tensor;
    all += weights;
    if (why === undefined) {
      targeted += weights;
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
      share: weights / all,
      why,
    }));
  return {
    weights: all,
    target_weights: targeted,
    fraction: all === 0 ? 0 : targeted / all,
    untouched,
  };
}
