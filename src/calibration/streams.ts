import { normsOutputs } from "../model/architecture.js";
import type { Site } from "../model/sites.js";
import type { Step } from "../model/steps.js";
import { InnerInputs } from "../probe/forward/inner-inputs.js";
import type { Activations, LayerRunner, LayerState, SuppliedWeights } from "../probe/forward/layer-runner.js";
import { insideChunk } from "./inside-step.js";
import type { InputChunk } from "./statistics.js";

/** Sequences of one length that go through the model together, in both streams. */
export interface Chunk {
  /** The donor's activations; absent where the method does not ask for them. */
  readonly donor: Activations | undefined;
  readonly operated: Activations;
  /** No statistics are gathered of it: it judges what the others taught. */
  readonly isHeldOut?: boolean;
}

/** Runs a piece of a forward pass, and knows how long it took. */
export type Timed = <T>(work: () => Promise<T>) => Promise<T>;

/** Where a chunk stands inside the layer. */
interface State {
  donor: LayerState | undefined;
  operated: LayerState;
  readonly isHeldOut: boolean;
}

/**
 * The calibration text inside one layer: what every chunk of it looks like before the next step, in the donor's stream
 * and the operated model's.
 */
export class LayerStreams {
  private readonly inner: InnerInputs;

  private constructor(
    private readonly runner: LayerRunner,
    private readonly layer: number,
    private readonly timed: Timed,
    private readonly states: State[],
  ) {
    this.inner = new InnerInputs(runner, layer);
  }

  /** Enter a layer with all chunks. */
  static async enter(
    runner: LayerRunner,
    layer: number,
    chunks: readonly Chunk[],
    timed: Timed,
  ): Promise<LayerStreams> {
    const states: State[] = [];
    for (const { donor, operated, isHeldOut = false } of chunks) {
      const operatedState = await timed(() => runner.begin(layer, operated));
      // In the first layer both streams are one.
      const isSame = donor === operated;
      const donorState = donor === undefined || isSame ? undefined : await timed(() => runner.begin(layer, donor));
      states.push({
        operated: operatedState,
        donor: donor === undefined ? undefined : (donorState ?? operatedState),
        isHeldOut,
      });
    }
    return new LayerStreams(runner, layer, timed, states);
  }

  /** Channels of the residual stream. */
  get residualWidth(): number {
    return this.states[0].operated.residual.width;
  }

  /**
   * What a site's projections see, of all chunks that are not held out, with `supplied` weights in what lies before
   * it; the donor's part only once the streams have parted. `weighTokens`: how much each token counts, too.
   */
  async inputs(site: Site, supplied: SuppliedWeights, weighTokens: boolean): Promise<InputChunk[]> {
    const states = this.states.filter(({ isHeldOut }) => !isHeldOut);
    const { step } = site;
    const havePartedWays = states.some(({ donor, operated }) => donor !== undefined && donor !== operated);
    // Where a norm stands between projection and residual stream, its output is not what is added.
    const meetsResidual = (step === "o" || step === "down") && !normsOutputs(this.runner.architecture);
    const chunks: InputChunk[] = [];
    if (site.source !== "step") {
      for (const { operated, donor } of states) {
        const sizes = this.inverseSizes(donor ?? operated);
        const seen = {
          operated: operated.input!,
          ...(donor === undefined || !(havePartedWays || supplied.size > 0) ? {} : { donor: donor.input! }),
          supplied,
          weigh: weighTokens,
          sizes,
        };
        chunks.push(await this.timed(() => insideChunk(this.inner, this.runner.architecture, this.layer, site, seen)));
      }
      await this.inner.close();
      return chunks;
    }
    for (const { operated, donor } of states) {
      const weights = weighTokens ? await this.tokenWeights(step, donor ?? operated) : undefined;
      chunks.push({
        operated: operated.input!.data,
        ...(weights === undefined ? {} : { weights }),
        ...(donor === undefined || !havePartedWays ? {} : { donor: donor.input!.data }),
        ...(donor === undefined || !havePartedWays || !meetsResidual
          ? {}
          : { drift: difference(donor.residual.data, operated.residual.data) }),
      });
    }
    return chunks;
  }

  /** Take a step: the donor's stream with its own weights, the operated one with `supplied` where given. */
  async advance(step: Step, supplied: SuppliedWeights): Promise<void> {
    const { runner, layer, timed } = this;
    for (const state of this.states) {
      const { donor, operated } = state;
      if (donor !== undefined) state.donor = await timed(() => runner.advance(layer, step, donor));
      state.operated = await timed(() => runner.advance(layer, step, operated, supplied));
    }
  }

  /** What the next layer is entered with. */
  leave(): Chunk[] {
    return this.states.map(({ donor, operated, isHeldOut }) => ({
      operated: operated.residual,
      donor: donor?.residual,
      isHeldOut,
    }));
  }

  /**
   * How much each token counts. What is added to the residual stream h is divided by its size in the next norm, so an
   * error there counts relative to rms(h);
   * errors in gate and up count as much as the neurons pass on of them. What enters attention counts alike everywhere.
   */
  private async tokenWeights(step: Step, { input, residual }: LayerState): Promise<Float64Array | undefined> {
    if (step === "qkv") return undefined;
    const sizes = this.inverseSizes({ residual });
    if (step !== "gate_up") return sizes;
    const heard = await this.timed(() => this.runner.listening(this.layer, input!));
    return Float64Array.from(heard, (value, token) => Math.sqrt(value) * (sizes?.[token] ?? 1));
  }

  /** What tokens count where something is added to the residual stream; all alike where a norm stands before it. */
  private inverseSizes({ residual }: Pick<LayerState, "residual">): Float64Array | undefined {
    return normsOutputs(this.runner.architecture) ? undefined : inverseSizes(residual);
  }
}

/** 1 / rms(h) of each token's residual stream h. */
function inverseSizes({ data, width }: Activations): Float64Array {
  const sizes = new Float64Array(data.length / width);
  for (let token = 0; token < sizes.length; token++) {
    let sum = 0;
    for (let at = token * width, end = at + width; at < end; at++) sum += data[at] ** 2;
    sizes[token] = sum > 0 ? 1 / Math.sqrt(sum / width) : 0;
  }
  return sizes;
}

function difference(left: Float32Array, right: Float32Array): Float32Array {
  const out = new Float32Array(left.length);
  for (let at = 0; at < out.length; at++) out[at] = left[at] - right[at];
  return out;
}

/** Each token's row of `values` (tokens, width), times its weight, in the front of `room`, which is at least as long. */
export function weighed(values: Float32Array, weights: Float64Array, room: Float32Array): Float32Array {
  const width = values.length / weights.length;
  const out = room.subarray(0, values.length);
  for (let token = 0; token < weights.length; token++) {
    for (let at = token * width, end = at + width; at < end; at++) out[at] = values[at] * weights[token];
  }
  return out;
}
