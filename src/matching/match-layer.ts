import { refuseStopped } from "../errors.js";
import type { TrainedTensor } from "../probe/forward/layer-gradient.js";
import { LayerGradients } from "../probe/forward/layer-gradients.js";
import type { LayerRunner, SuppliedWeights } from "../probe/forward/layer-runner.js";
import type { MatchRecord } from "../record/matching.js";
import { Adam, livingPlaces } from "./adam.js";
import { type Lesson, type LessonChunk, lessonsOf, paceAt, rounds } from "./lessons.js";

export interface MatchOptions {
  /** Rounds through the calibration, what is held out aside. */
  readonly rounds: number;
  /** Tokens of a step. */
  readonly lessonTokens: number;
  /** How often the held-out part is asked. */
  readonly looks: number;
  /** Chooses the order of lessons. */
  readonly seed: number;
  /** Rate that is tried first; the search goes on from the one that the layer before took. */
  readonly firstRate: number;
  /** Steps that each rate is tried for: this share of all steps, and at least so many. */
  readonly trialShare: number;
  readonly trialSteps: number;
}

export const MATCH_DEFAULTS: MatchOptions = {
  rounds: 4,
  lessonTokens: 1024,
  looks: 8,
  seed: 0,
  firstRate: 0.016,
  trialShare: 1 / 4,
  trialSteps: 10,
};

/** The most a rate may grow or shrink from layer to layer, in doublings. */
const MOST_DOUBLINGS = 6;

/**
 * Let the living weights of one layer move together, until its output on the operated stream is as near as they get to
 * the donor's on its own: Adam on Σ |out − target|² / |target|², dead weights dead.
 *
 * chunks   what enters and what should leave, of the whole calibration
 * weights  the layer's operated weights, f32 by tensor name; changed in place
 * returns  what was gained. The weights are those of the step that did best on the part of the calibration that is held
 *          out, so they cannot over-fit further than they gain; where no step did better they are as they came
 * The same chunks, options and engine give the same weights. Throws `STOPPED` soon after `signal` aborts.
 */
export async function matchLayer(
  runner: LayerRunner,
  layer: number,
  chunks: readonly LessonChunk[],
  trained: readonly TrainedTensor[],
  weights: SuppliedWeights,
  options: MatchOptions,
  signal?: AbortSignal,
): Promise<MatchRecord> {
  const work = await LayerMatch.open(runner, layer, chunks, trained, weights, options, signal);
  try {
    return await work.run();
  } finally {
    await work.close();
  }
}

class LayerMatch {
  private readonly adams: ReadonlyMap<string, Adam>;
  private readonly start: ReadonlyMap<string, Float32Array>;
  private readonly taught: readonly Lesson[];
  private readonly heldOut: readonly Lesson[];

  private constructor(
    private readonly teacher: LayerGradients,
    private readonly judge: LayerGradients,
    chunks: readonly LessonChunk[],
    trained: readonly TrainedTensor[],
    private readonly weights: SuppliedWeights,
    private readonly options: MatchOptions,
    private readonly signal: AbortSignal | undefined,
  ) {
    ({ taught: this.taught, heldOut: this.heldOut } = lessonsOf(chunks, options.lessonTokens));
    this.adams = new Map(
      trained.map(({ name }) => [name, new Adam(weights.get(name)!, livingPlaces(weights.get(name)!))]),
    );
    this.start = new Map(trained.map(({ name }) => [name, weights.get(name)!.slice()]));
  }

  static async open(
    runner: LayerRunner,
    layer: number,
    chunks: readonly LessonChunk[],
    trained: readonly TrainedTensor[],
    weights: SuppliedWeights,
    options: MatchOptions,
    signal: AbortSignal | undefined,
  ): Promise<LayerMatch> {
    const teacher = await LayerGradients.open(runner, layer, trained, { kind: "match", gradients: true });
    const judge = await LayerGradients.open(runner, layer, trained, { kind: "match", gradients: false });
    return new LayerMatch(teacher, judge, chunks, trained, weights, options, signal);
  }

  async run(): Promise<MatchRecord> {
    const { options, taught } = this;
    const before = await this.lossOf(this.heldOut);
    const lossBefore = await this.lossOf(taught);
    const rate = await this.search(before);
    const { steps } = this;
    const best = { loss: before, step: 0, weights: copies(this.start) };
    const order = rounds(taught, options.seed);
    for (let look = 1, step = 0; look <= options.looks; look++) {
      for (const end = Math.round((look / options.looks) * steps); step < end; step++) {
        await this.step(order.next().value!, rate * paceAt(step, steps));
      }
      const loss = await this.lossOf(this.heldOut);
      if (!(loss < best.loss)) continue;
      Object.assign(best, { loss, step });
      for (const [name, { weights }] of this.adams) best.weights.get(name)!.set(weights);
    }
    for (const [name, { weights }] of this.adams) weights.set(best.weights.get(name)!);
    return {
      steps: best.step,
      steps_made: steps,
      rate,
      loss_before: lossBefore,
      loss_after: best.step === 0 ? lossBefore : await this.lossOf(taught),
      held_out_before: before,
      held_out_after: best.loss,
    };
  }

  private get steps(): number {
    return Math.max(this.options.looks, Math.round(this.options.rounds * this.taught.length));
  }

  async close(): Promise<void> {
    await this.teacher.close();
    await this.judge.close();
  }

  /** The rate, by doublings from the first one, whose few steps bring the held-out part furthest down. */
  private async search(before: number): Promise<number> {
    const { firstRate } = this.options;
    let best = firstRate;
    let bestLoss = await this.trial(firstRate, before);
    for (const factor of [2, 0.5]) {
      let moved = false;
      for (let doubling = 1; doubling <= MOST_DOUBLINGS; doubling++) {
        const rate = firstRate * factor ** doubling;
        const loss = await this.trial(rate, before);
        if (!(loss < bestLoss)) break;
        [best, bestLoss, moved] = [rate, loss, true];
      }
      if (moved) break;
    }
    return best;
  }

  /** The held-out loss after a few steps at one rate; the weights are put back. */
  private async trial(rate: number, before: number): Promise<number> {
    const { options, taught } = this;
    const order = rounds(taught, options.seed);
    const steps = Math.max(options.trialSteps, Math.round(this.steps * options.trialShare));
    for (let step = 0; step < steps; step++) {
      const loss = await this.step(order.next().value!, rate * paceAt(step, steps));
      if (!(loss < 100 * before)) break;
    }
    const loss = await this.lossOf(this.heldOut);
    for (const [name, adam] of this.adams) {
      adam.weights.set(this.start.get(name)!);
      adam.reset();
    }
    return loss;
  }

  private async step({ residual, target }: Lesson, rate: number): Promise<number> {
    refuseStopped(this.signal);
    const { loss, gradients } = await this.teacher.match(residual, target, this.weights);
    for (const [name, adam] of this.adams) adam.step(gradients.get(name)!, rate);
    return loss;
  }

  /** Mean of |error|² / |target|² over lessons. */
  private async lossOf(lessons: readonly Lesson[]): Promise<number> {
    let sum = 0;
    let tokens = 0;
    for (const { residual, target } of lessons) {
      refuseStopped(this.signal);
      const count = residual.batch * residual.tokens;
      sum += count * (await this.judge.match(residual, target, this.weights)).loss;
      tokens += count;
    }
    return sum / tokens;
  }
}

function copies(weights: SuppliedWeights): Map<string, Float32Array> {
  return new Map([...weights].map(([name, values]) => [name, values.slice()]));
}
