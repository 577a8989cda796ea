import type { Activations } from "../probe/forward/activations.js";
import type { Target } from "../probe/forward/layer-gradients.js";
import { randomNumbers } from "../probe/text/random.js";

/** Sequences that a layer learns from together: what enters it in the operated model, and what the donor's gives. */
export interface Lesson {
  readonly residual: Activations;
  readonly target: Target;
}

/** Sequences of one length, in both streams: (batch, tokens, hidden). */
export interface LessonChunk {
  /** What enters the layer, in the operated model. */
  readonly residual: Activations;
  /** What leaves it, in the donor. */
  readonly output: Activations;
  readonly isHeldOut: boolean;
}

/** Every so many sequences one is held out: what it says decides when a layer has learnt enough. */
const HELD_OUT_OF = 8;

/**
 * Which sequences of a calibration teach and which judge: every eighth, one at least. A judge that had a part in what
 * is judged would see over-fitting as gain, so nothing is gathered of those either. One sequence alone teaches only.
 */
export function holdOut<T>(sequences: readonly T[]): { taught: T[]; heldOut: T[] } {
  const every = Math.min(HELD_OUT_OF, sequences.length);
  const isHeldOut = (at: number): boolean => every > 1 && at % every === every - 1;
  return {
    taught: sequences.filter((_, at) => !isHeldOut(at)),
    heldOut: sequences.filter((_, at) => isHeldOut(at)),
  };
}

/** So many sequences that `holdOut` leaves this many to teach. */
export function withHeldOut(taught: number): number {
  return Math.ceil((taught * HELD_OUT_OF) / (HELD_OUT_OF - 1));
}

/**
 * Cut a calibration into lessons of about `tokens` tokens, whole sequences each, without copying. Where nothing was
 * held out, what taught judges, too.
 */
export function lessonsOf(chunks: readonly LessonChunk[], tokens: number): { taught: Lesson[]; heldOut: Lesson[] } {
  const tokensOf = ({ residual }: LessonChunk): number => residual.batch * residual.tokens;
  const total = chunks.reduce((sum, chunk) => sum + tokensOf(chunk), 0);
  // Few tokens make small lessons: a round has some.
  const size = Math.min(tokens, Math.ceil(total / HELD_OUT_OF));
  const cut = (isHeldOut: boolean): Lesson[] => {
    const lessons: Lesson[] = [];
    for (const chunk of chunks) {
      if (chunk.isHeldOut !== isHeldOut) continue;
      const { batch, tokens: length } = chunk.residual;
      const rows = Math.max(1, Math.min(batch, Math.round(size / length)));
      for (let row = 0; row < batch; row += rows) lessons.push(lessonOf(chunk, row, Math.min(row + rows, batch)));
    }
    return lessons;
  };
  const taught = cut(false);
  const heldOut = cut(true);
  return { taught, heldOut: heldOut.length === 0 ? taught : heldOut };
}

function lessonOf({ residual, output }: LessonChunk, rowStart: number, rowEnd: number): Lesson {
  const part = ({ data, tokens, width }: Activations): Activations => ({
    data: data.subarray(rowStart * tokens * width, rowEnd * tokens * width),
    batch: rowEnd - rowStart,
    tokens,
    width,
  });
  const goal = part(output);
  return { residual: part(residual), target: { output: goal, importance: importanceOf(goal) } };
}

/**
 * 1 / |h|² of each token's stream h, over the tokens: the next norm divides by the stream's size, so errors count
 * relative to it, and the loss is the mean of |error|² / |h|².
 */
function importanceOf({ data, width }: Activations): Float32Array {
  const tokens = data.length / width;
  return Float32Array.from({ length: tokens }, (_, token) => {
    let energy = 0;
    for (let at = token * width, end = at + width; at < end; at++) energy += data[at] ** 2;
    return energy > 0 ? 1 / energy / tokens : 0;
  });
}

/** Lessons over and over, each round in an order of its own; the same seed gives the same orders. */
export function* rounds<T>(lessons: readonly T[], seed: number): Generator<T> {
  const random = randomNumbers(seed);
  for (;;) {
    const order = [...lessons];
    for (let at = order.length - 1; at > 0; at--) {
      const other = Math.floor(random() * (at + 1));
      [order[at], order[other]] = [order[other], order[at]];
    }
    yield* order;
  }
}

/**
 * Share of the rate at a step: up over the first sixth, for Adam's first steps are as long whether the gradient says
 * much or little, then down to nothing, so that the last ones settle what the first ones stirred up.
 */
export function paceAt(step: number, steps: number): number {
  return Math.min(1, (6 * (step + 1)) / steps) * (1 - step / steps);
}
