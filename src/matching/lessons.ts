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
}

/** Of the lessons this share is held out: what they say decides when a layer has learnt enough. */
const HELD_OUT = 1 / 8;

/**
 * Cut a calibration into lessons of about `tokens` tokens, whole sequences each, without copying.
 *
 * Every eighth lesson is held out, one at least; where there is only one sequence it teaches and tests.
 */
export function lessonsOf(chunks: readonly LessonChunk[], tokens: number): { taught: Lesson[]; heldOut: Lesson[] } {
  const total = chunks.reduce((sum, { residual }) => sum + residual.batch * residual.tokens, 0);
  // Few tokens make small lessons: there must be some to hold out.
  const size = Math.min(tokens, Math.ceil(total * HELD_OUT));
  const lessons: Lesson[] = [];
  for (const chunk of chunks) {
    const { batch } = chunk.residual;
    const rows = Math.max(1, Math.min(batch, Math.round(size / chunk.residual.tokens)));
    for (let row = 0; row < batch; row += rows) lessons.push(lessonOf(chunk, row, Math.min(row + rows, batch)));
  }
  if (lessons.length === 1) return { taught: lessons, heldOut: lessons };
  const every = Math.min(Math.round(1 / HELD_OUT), lessons.length);
  const isHeldOut = (at: number): boolean => at % every === every - 1;
  return {
    taught: lessons.filter((_, at) => !isHeldOut(at)),
    heldOut: lessons.filter((_, at) => isHeldOut(at)),
  };
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
