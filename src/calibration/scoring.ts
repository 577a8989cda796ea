import { type Engine, floats, type Session } from "../probe/engine.js";
import { scoreGraph, vocabularyChunks } from "../probe/head-graph.js";
import type { Activations, LayerRunner, SuppliedWeights } from "../probe/layer-runner.js";
import { batchesOf } from "./pipeline.js";

/** What operated weights cost on a text, against the donor. */
export interface Score {
  /** exp of the mean negative log likelihood, nats a token. */
  readonly perplexity: number;
  /** Mean KL(donor ‖ operated) over the places, nats. */
  readonly klMean: number;
  /** Share of places where both find the same token most likely. */
  readonly sameTop: number;
  /** Predictions counted. */
  readonly tokens: number;
}

/** Places scored at once: their logits over a chunk of the vocabulary lie in memory together. */
const PLACES = 1024;
const CHUNK_TOKENS = 4096;

/** Scores weights held in memory on fixed sequences: the donor's last residuals are kept, so each operated model is run alone. */
export class MemoryScorer {
  private constructor(
    private readonly runner: LayerRunner,
    private readonly batches: readonly ArrayLike<number>[][],
    private readonly donor: readonly Activations[],
    private readonly session: Session,
    private readonly engine: Engine,
  ) {}

  static async open(runner: LayerRunner, sequences: readonly ArrayLike<number>[]): Promise<MemoryScorer> {
    const batches = batchesOf(
      sequences.filter(({ length }) => length > 1),
      CHUNK_TOKENS,
    );
    const donor: Activations[] = [];
    for (const batch of batches) donor.push(await runner.forward(await runner.embed(batch)));
    const session = await runner.engine.session(scoreGraph([runner, runner], runner.engine.device), runner.keepsCopies);
    return new MemoryScorer(runner, batches, donor, session, runner.engine);
  }

  /** The donor itself: KL 0. */
  scoreDonor(): Promise<Score> {
    return this.compare(this.donor);
  }

  /** The donor with `supplied` weights in place of its own. */
  async score(supplied: SuppliedWeights): Promise<Score> {
    const { runner, batches } = this;
    const residuals: Activations[] = [];
    for (const batch of batches) residuals.push(await runner.embed(batch));
    for (let layer = 0; layer < runner.layerCount; layer++) {
      for (let at = 0; at < residuals.length; at++) {
        residuals[at] = await runner.forwardLayer(layer, residuals[at], { supplied });
      }
      await runner.closeLayer(layer);
    }
    return this.compare(residuals);
  }

  close(): Promise<void> {
    return this.session.close();
  }

  private async compare(operated: readonly Activations[]): Promise<Score> {
    const sums = { nll: 0, kl: 0, sameTop: 0, tokens: 0 };
    for (let at = 0; at < operated.length; at++) {
      const { batch, tokens, width } = operated[at];
      const places = batch * (tokens - 1);
      const targets = new BigInt64Array(places);
      const donorRows = new Float32Array(places * width);
      const operatedRows = new Float32Array(places * width);
      // The last place of a sequence predicts nothing.
      for (let row = 0; row < batch; row++) {
        const from = row * tokens * width;
        const to = from + (tokens - 1) * width;
        donorRows.set(this.donor[at].data.subarray(from, to), row * (tokens - 1) * width);
        operatedRows.set(operated[at].data.subarray(from, to), row * (tokens - 1) * width);
        for (let place = 1; place < tokens; place++) {
          targets[row * (tokens - 1) + place - 1] = BigInt(this.batches[at][row][place]);
        }
      }
      for (let start = 0; start < places; start += PLACES) {
        const end = Math.min(start + PLACES, places);
        await this.scorePlaces(
          donorRows.subarray(start * width, end * width),
          operatedRows.subarray(start * width, end * width),
          targets.subarray(start, end),
          width,
          sums,
        );
      }
    }
    const { nll, kl, sameTop, tokens } = sums;
    return { perplexity: Math.exp(nll / tokens), klMean: kl / tokens, sameTop: sameTop / tokens, tokens };
  }

  private async scorePlaces(
    donorRows: Float32Array,
    operatedRows: Float32Array,
    targets: BigInt64Array,
    width: number,
    sums: { nll: number; kl: number; sameTop: number; tokens: number },
  ): Promise<void> {
    const { engine, runner } = this;
    const count = targets.length;
    const outputs = await this.session.run({
      residual_0: engine.f32(donorRows, [1, count, width]),
      residual_1: engine.f32(operatedRows, [1, count, width]),
      targets: engine.i64(targets, [1, count]),
    });
    const chunks = vocabularyChunks(runner.architecture);
    const column = (name: string) => floats(outputs[name]);
    const models = [0, 1].map((model) => ({
      max: column(`max_${model}`),
      sum: column(`sum_${model}`),
      target: column(`target_${model}`),
      top: outputs[`top_${model}`].data as Int32Array,
    }));
    const cross = column("cross");
    for (let place = 0; place < count; place++) {
      const base = place * chunks.length;
      const [donor, operated] = models.map(({ max, sum, top, target }) => {
        let best = 0;
        for (let chunk = 1; chunk < chunks.length; chunk++) if (max[base + chunk] > max[base + best]) best = chunk;
        let total = 0;
        for (let chunk = 0; chunk < chunks.length; chunk++) {
          total += sum[base + chunk] * Math.exp(max[base + chunk] - max[base + best]);
        }
        const wanted = chunks.findIndex(([start, end]) => targets[place] >= start && targets[place] < end);
        return {
          logSum: max[base + best] + Math.log(total),
          top: chunks[best][0] + top[base + best],
          target: target[base + wanted],
        };
      });
      let kl = operated.logSum - donor.logSum;
      for (let chunk = 0; chunk < chunks.length; chunk++) {
        kl += cross[base + chunk] * Math.exp(models[0].max[base + chunk] - donor.logSum);
      }
      sums.nll += operated.logSum - operated.target;
      sums.kl += kl;
      if (donor.top === operated.top) sums.sameTop++;
      sums.tokens++;
    }
  }
}
