export interface AdamSettings {
  /** How fast the means of the gradient and of its square forget. */
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
}

/**
 * The second moment forgets ten times faster than in training from nothing: a layer is matched in a hundred steps, not
 * in a hundred thousand.
 */
export const ADAM: AdamSettings = { beta1: 0.9, beta2: 0.99, epsilon: 1e-8 };

/**
 * Adam on the living weights of one tensor; the dead are 0 and stay so.
 *
 * weights  f32, changed in place: the masters, never rounded on the way
 * alive    places of the weights that move, rising
 * A step is `rate` times the size of the weights, so that one rate serves tensors of any scale.
 * source   Kingma & Ba 2015, https://arxiv.org/abs/1412.6980; sizes as in Adafactor, https://arxiv.org/abs/1804.04235
 */
export class Adam {
  readonly first: Float32Array;
  readonly second: Float32Array;
  /** Root mean square of the living as they came: what rates are shares of. */
  size: number;
  private steps = 0;

  constructor(
    readonly weights: Float32Array,
    readonly alive: Int32Array,
    private readonly settings: AdamSettings = ADAM,
  ) {
    this.first = new Float32Array(alive.length);
    this.second = new Float32Array(alive.length);
    this.size = sizeOf(weights, alive);
  }

  /** One step down the gradient, f32 in the order of `weights`; what it holds of dead weights is not looked at. */
  step(gradient: Float32Array, rate: number): void {
    const { weights, alive, first, second, size } = this;
    const { beta1, beta2, epsilon } = this.settings;
    this.steps++;
    const unbias = Math.sqrt(1 - beta2 ** this.steps) / (1 - beta1 ** this.steps);
    const pace = rate * size * unbias;
    for (let at = 0; at < alive.length; at++) {
      const place = alive[at];
      const slope = gradient[place];
      const mean = beta1 * first[at] + (1 - beta1) * slope;
      const square = beta2 * second[at] + (1 - beta2) * slope * slope;
      first[at] = mean;
      second[at] = square;
      weights[place] -= (pace * mean) / (Math.sqrt(square) + epsilon);
    }
  }

  /** Take over the means of an earlier run. */
  restore({ first, second, size }: Pick<Adam, "first" | "second" | "size">): void {
    this.size = size;
    this.first.set(first);
    this.second.set(second);
  }

  /** The means are those behind so many steps. */
  resumeAt(steps: number): void {
    this.steps = steps;
  }

  /** The living weights, in the order of their places. */
  living(): Float32Array {
    return Float32Array.from(this.alive, (place) => this.weights[place]);
  }

  setLiving(values: Float32Array): void {
    for (let at = 0; at < values.length; at++) this.weights[this.alive[at]] = values[at];
  }

  /** Forget all steps: what comes next begins anew from the weights as they are. */
  reset(): void {
    this.first.fill(0);
    this.second.fill(0);
    this.steps = 0;
  }
}

/** Places of the weights that are not 0. */
export function livingPlaces(weights: Float32Array): Int32Array {
  let count = 0;
  for (const weight of weights) if (weight !== 0) count++;
  const places = new Int32Array(count);
  let found = 0;
  for (let at = 0; at < weights.length; at++) if (weights[at] !== 0) places[found++] = at;
  return places;
}

/** Root of the mean square of the living, 1e-3 at least (as in Adafactor): steps of a share of nothing lead nowhere. */
function sizeOf(weights: Float32Array, alive: Int32Array): number {
  let energy = 0;
  for (const place of alive) energy += weights[place] ** 2;
  return Math.max(Math.sqrt(energy / Math.max(alive.length, 1)), 1e-3);
}
