import { refuseStopped } from "../errors.js";
import { sum } from "../probe/divergence.js";
import type { Activations, LayerRunner, SuppliedWeights } from "../probe/forward/layer-runner.js";
import { Scorer } from "../probe/scorer.js";
import { batchesOf } from "../probe/text/batches.js";
import type { ScoredSequence } from "../probe/text/protocols.js";

/** What operated weights cost on a text, against the donor. */
export interface Score {
  /** exp of the mean negative log-likelihood, nats a token. */
  readonly perplexity: number;
  /** Mean KL(donor ‖ operated) over the places, nats. */
  readonly klMean: number;
  /** Share of places where both find the same token most likely. */
  readonly sameTop: number;
  /** Predictions counted. */
  readonly tokens: number;
}

const CHUNK_TOKENS = 4096;

interface Batch {
  readonly ids: readonly (readonly number[])[];
  /** Flat positions whose next token counts, and those tokens. */
  readonly places: Int32Array;
  readonly targets: Int32Array;
  /** The donor's last residual. */
  readonly donor: Activations;
}

/**
 * Scores weights held in memory on fixed sequences: the donor's last residuals are kept, so each operated model is run
 * alone.
 */
export class MemoryScorer {
  private constructor(
    private readonly runner: LayerRunner,
    private readonly batches: readonly Batch[],
    private readonly scorer: Scorer,
    private readonly signal: AbortSignal | undefined,
  ) {}

  /** Everything here throws `STOPPED` soon after `signal` aborts. */
  static async open(
    runner: LayerRunner,
    sequences: readonly ScoredSequence[],
    signal?: AbortSignal,
  ): Promise<MemoryScorer> {
    const batches: Batch[] = [];
    for (const batch of batchesOf(sequences, ({ ids }) => ids.length, CHUNK_TOKENS)) {
      refuseStopped(signal);
      const places: number[] = [];
      const targets: number[] = [];
      batch.forEach(({ ids, scoreFrom }, row) => {
        for (let place = scoreFrom; place < ids.length; place++) {
          places.push(row * ids.length + place - 1);
          targets.push(ids[place]);
        }
      });
      const ids = batch.map((sequence) => sequence.ids);
      batches.push({
        ids,
        places: Int32Array.from(places),
        targets: Int32Array.from(targets),
        donor: await runner.forward(await runner.embed(ids)),
      });
    }
    return new MemoryScorer(runner, batches, new Scorer([runner, runner]), signal);
  }

  /** The donor itself: KL 0. */
  scoreDonor(): Promise<Score> {
    return this.compare(this.batches.map(({ donor }) => donor));
  }

  /**
   * The donor with `supplied` weights in place of its own. Throws `VERIFY_NON_FINITE` where likelihoods are not finite.
   */
  async score(supplied: SuppliedWeights): Promise<Score> {
    const { runner, batches } = this;
    const residuals: Activations[] = [];
    for (const { ids } of batches) residuals.push(await runner.embed(ids));
    for (let layer = 0; layer < runner.layerCount; layer++) {
      for (let at = 0; at < residuals.length; at++) {
        refuseStopped(this.signal);
        residuals[at] = await runner.forwardLayer(layer, residuals[at], { supplied });
      }
      await runner.closeLayer(layer);
    }
    return this.compare(residuals);
  }

  close(): Promise<void> {
    return this.scorer.close();
  }

  private async compare(operated: readonly Activations[]): Promise<Score> {
    let nll = 0;
    let kl = 0;
    let sameTop = 0;
    let tokens = 0;
    for (const [at, { donor, places, targets }] of this.batches.entries()) {
      refuseStopped(this.signal);
      const scores = await this.scorer.score([donor, operated[at]], places, targets);
      const [first, second] = scores.models;
      nll += sum(second.nll);
      kl += sum(scores.kl!);
      tokens += places.length;
      for (let place = 0; place < places.length; place++) if (first.top[place] === second.top[place]) sameTop++;
    }
    return { perplexity: Math.exp(nll / tokens), klMean: kl / tokens, sameTop: sameTop / tokens, tokens };
  }
}
