import { refuseStopped } from "../errors.js";
import type { Activations } from "../probe/forward/activations.js";
import { DivergenceGradient } from "../probe/forward/divergence-gradient.js";
import type { Judgement, TrainedTensor } from "../probe/forward/layer-gradient.js";
import { LayerGradients } from "../probe/forward/layer-gradients.js";
import type { LayerRunner, SuppliedWeights } from "../probe/forward/layer-runner.js";
import { batchesOf } from "../probe/text/batches.js";
import { Adam, livingPlaces } from "./adam.js";
import { holdOut, paceAt, rounds, withHeldOut } from "./lessons.js";

export interface DistilOptions {
  readonly steps: number;
  /** Tokens of a step. */
  readonly lessonTokens: number;
  /** Of the size of a tensor's weights, the share that a step moves them at most, to begin with. */
  readonly rate: number;
  /** How often the held-out part is asked. */
  readonly looks: number;
  readonly seed: number;
}

export const DISTIL_DEFAULTS: Omit<DistilOptions, "steps"> = { lessonTokens: 1024, rate: 0.0016, looks: 8, seed: 0 };

/** Where a distillation stands, its weights and Adam's means aside. */
export interface DistilProgress {
  /** Steps made; of those, the ones before Adam last began anew, and the ones before the last look. */
  readonly made: number;
  readonly begunAt: number;
  readonly lookedAt: number;
  /** Share of a tensor's size that a step moves it now. */
  readonly rate: number;
  /** Of the look before the first step. */
  readonly heldOutBefore: number;
  readonly best: BestLook;
}

/**
 * Sequences of a window that give every step, and the judges, some of their own. What calibrated taught the layers by
 * heart: on those tokens a model is nearer to its donor than it is, and more of them teaches little.
 */
export function sequencesToDistil({ steps, lessonTokens }: DistilOptions, window: number): number {
  return withHeldOut(steps * Math.max(1, Math.floor(lessonTokens / window)));
}

/**
 * What a model is distilled on: sequences that nothing has learnt from, and where the text has too few of them the
 * calibration before them.
 */
export function sequencesThatDistil(
  calibration: readonly (readonly number[])[],
  fresh: readonly (readonly number[])[],
  options: DistilOptions,
): readonly (readonly number[])[] {
  const window = Math.max(...fresh.map(({ length }) => length), 1);
  return fresh.length >= sequencesToDistil(options, window) ? fresh : [...calibration, ...fresh];
}

/** The look that did best on the held-out part so far. */
export interface BestLook {
  readonly step: number;
  /** Mean KL over the held-out part, nats. */
  readonly loss: number;
  /** Living weights of each tensor, in the order of their places. */
  readonly living: ReadonlyMap<string, Float32Array>;
}

/** Rates that suit models differ eightfold: while looks get better steps get longer, until one was too long. */
const BOLDER = 1.4;

/** Adam that begins anew takes its first steps shorter: they are as long whether the gradient says much or little. */
const WARM_STEPS = 4;

/** What moves in one layer, by the names that its weights are supplied by. */
export type TrainedLayer = readonly TrainedTensor[];

/**
 * Let the living weights of the whole model move, until its next-token probabilities are as near as they get to the
 * donor's: Adam on the mean KL(donor ‖ operated), dead weights dead.
 *
 * A step runs the layers forward, keeping what enters each, then backward one by one, each recomputed inside its own
 * gradient graph: of the layers' activations only one layer's are ever in memory. A layer's weights move as soon as its
 * gradient is there.
 */
export class Distiller {
  /** Tokens of the sequences that teach. */
  readonly tokens: number;
  readonly adams = new Map<string, Adam>();
  private made = 0;
  private begunAt = 0;
  private lookedAt = -1;
  private rate: number;
  private heldOutBefore = Number.NaN;
  private best: BestLook | undefined;
  /** False where a step broke off on its way back: layers are a step apart, and nothing goes on from there. */
  isWhole = true;
  private readonly lessons: readonly (readonly (readonly number[])[])[];
  private readonly judges: readonly (readonly (readonly number[])[])[];
  private order: Generator<readonly (readonly number[])[]>;

  private constructor(
    private readonly runner: LayerRunner,
    private readonly divergence: DivergenceGradient,
    private readonly layers: readonly TrainedLayer[],
    private readonly weights: SuppliedWeights,
    sequences: readonly (readonly number[])[],
    readonly options: DistilOptions,
    private readonly signal: AbortSignal | undefined,
  ) {
    const { taught, heldOut } = holdOut(sequences);
    this.tokens = taught.reduce((sum, { length }) => sum + length, 0);
    const cut = (part: readonly (readonly number[])[]) => batchesOf(part, ({ length }) => length, options.lessonTokens);
    this.lessons = cut(taught);
    this.judges = cut(heldOut.length === 0 ? taught : heldOut);
    this.order = rounds(this.lessons, options.seed);
    this.rate = options.rate;
    for (const { name } of layers.flat()) {
      const own = weights.get(name)!;
      this.adams.set(name, new Adam(own, livingPlaces(own)));
    }
  }

  /**
   * layers   what moves in each layer of the model; none in a layer that stays
   * weights  the operated weights by name, f32; changed in place
   */
  static async open(
    runner: LayerRunner,
    layers: readonly TrainedLayer[],
    weights: SuppliedWeights,
    sequences: readonly (readonly number[])[],
    options: DistilOptions,
    signal?: AbortSignal,
  ): Promise<Distiller> {
    const divergence = await DivergenceGradient.open(runner);
    return new Distiller(runner, divergence, layers, weights, sequences, options, signal);
  }

  /** Undefined before the first look. */
  get progress(): DistilProgress | undefined {
    const { made, begunAt, lookedAt, rate, heldOutBefore, best } = this;
    return best && { made, begunAt, lookedAt, rate, heldOutBefore, best };
  }

  /** Go on where an earlier run stood, whose weights and means the Adams hold already. */
  resumeAt({ made, ...progress }: DistilProgress): void {
    for (const adam of this.adams.values()) adam.resumeAt(made - progress.begunAt);
    for (; this.made < made; this.made++) this.order.next();
    Object.assign(this, progress);
  }

  /** Every step is made, and the last look with it. */
  get isDone(): boolean {
    return this.made >= this.options.steps && this.lookedAt === this.made;
  }

  /**
   * A look where one is due, before the first step and behind the last one too; else a step, whose mean KL before it is
   * returned.
   */
  async advance(): Promise<number | undefined> {
    const { made, lookedAt, options } = this;
    const isDue =
      Math.floor((made * options.looks) / options.steps) > Math.floor((lookedAt * options.looks) / options.steps);
    if (!isDue) return this.step();
    await this.look();
    return undefined;
  }

  /**
   * Ask the held-out part. Where it is nearer to the donor than ever, what is there is the best, and steps get longer;
   * else the steps since then led astray, and half as long ones go on from the best.
   */
  private async look(): Promise<void> {
    const loss = await this.judge();
    if (this.lookedAt < 0) this.heldOutBefore = loss;
    if (this.best === undefined || loss < this.best.loss) {
      const living = new Map([...this.adams].map(([name, adam]) => [name, adam.living()]));
      if (this.best !== undefined) this.rate *= BOLDER;
      this.best = { step: this.made, loss, living };
    } else {
      this.goBack();
      this.rate /= 2;
    }
    this.lookedAt = this.made;
  }

  /** The weights are those of the best look; Adam begins anew. */
  goBack(): void {
    for (const [name, adam] of this.adams) {
      adam.setLiving(this.best!.living.get(name)!);
      adam.reset();
    }
    this.begunAt = this.made;
  }

  /** Returns the mean KL of its tokens before it. What a stop cuts off is as it was before the step. */
  private async step(): Promise<number> {
    const { layers, options, signal, adams, weights } = this;
    refuseStopped(signal);
    const { donor, entered, last } = await this.forward(this.order.next().value!);
    const { divergence, gradient } = await this.divergence.of(donor, last);
    refuseStopped(signal);
    const warmth = Math.min(1, (this.made - this.begunAt + 1) / WARM_STEPS);
    const rate = this.rate * warmth * paceAt(this.made, options.steps);
    let behind = gradient;
    // From here to the end of the step nothing stops it: layers must not be a step apart.
    this.isWhole = false;
    for (let layer = layers.length - 1; layer >= 0; layer--) {
      const found = await this.inLayer(layer, { kind: "pull back" }, (session) =>
        session.pullBack(entered[layer], behind, weights),
      );
      behind = found.residual;
      for (const { name } of layers[layer]) adams.get(name)!.step(found.gradients.get(name)!, rate);
    }
    this.made++;
    this.isWhole = true;
    return divergence;
  }

  /** Mean KL over the part of the calibration that is held out, nats. */
  private async judge(): Promise<number> {
    let sum = 0;
    let places = 0;
    for (const batch of this.judges) {
      refuseStopped(this.signal);
      const { donor, last } = await this.forward(batch);
      const count = last.batch * last.tokens;
      sum += count * (await this.divergence.of(donor, last)).divergence;
      places += count;
    }
    return sum / places;
  }

  close(): Promise<void> {
    return this.divergence.close();
  }

  /** What enters each layer of the operated model, and both models' last residual streams. */
  private async forward(
    batch: readonly (readonly number[])[],
  ): Promise<{ donor: Activations; entered: Activations[]; last: Activations }> {
    const { runner, layers, weights } = this;
    const embedded = await runner.embed(batch);
    const donor = await runner.forward(embedded);
    const entered: Activations[] = [];
    let last = embedded;
    for (let layer = 0; layer < layers.length; layer++) {
      refuseStopped(this.signal);
      entered.push(last);
      const residual = last;
      last = await this.inLayer(layer, { kind: "forward" }, (session) => session.forward(residual, weights));
    }
    return { donor, entered, last };
  }

  /** A layer's session lives as long as it is in work: its activations are the only ones there are. */
  private async inLayer<T>(
    layer: number,
    judgement: Judgement,
    work: (session: LayerGradients) => Promise<T>,
  ): Promise<T> {
    const session = await LayerGradients.open(this.runner, layer, this.layers[layer], judgement);
    try {
      return await work(session);
    } finally {
      await session.close();
    }
  }
}
