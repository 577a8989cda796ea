import type { LayerTraits } from "../../model/architecture.js";
import type { Activations, KvCache, SuppliedWeights } from "./activations.js";

/** Whether all that a layer remembers of earlier tokens is keys and values of its own, sized as every layer's. */
export function keepsKeysAlone({ mixer, sizes, takesKeys, keepsKeys }: LayerTraits): boolean {
  const isAttention = mixer === undefined || mixer.kind === "latent";
  return isAttention && sizes === undefined && takesKeys === undefined && keepsKeys === undefined;
}

/** A model that can run whole sequences. */
interface Whole {
  embed(sequences: readonly ArrayLike<number>[]): Promise<Activations>;
  forward(residual: Activations): Promise<Activations>;
  readonly layerCount: number;
  forwardLayer(layer: number, residual: Activations, options: { supplied?: SuppliedWeights }): Promise<Activations>;
  closeLayer(layer: number): Promise<void>;
}

/**
 * Convolutions and linear attention remember more than keys and values, and some layers take those of others: all
 * tokens so far run again, the new ones are given.
 */
export async function runAnew(
  model: Whole,
  sequences: readonly ArrayLike<number>[],
  cache: KvCache | undefined,
  supplied?: SuppliedWeights,
): Promise<{ residual: Activations; cache: KvCache }> {
  const all = sequences.map((sequence, row) => [...(cache?.sequences?.[row] ?? []), ...Array.from(sequence)]);
  const embedded = await model.embed(all);
  const run = supplied === undefined ? model.forward(embedded) : forwardWith(model, embedded, supplied);
  const { data, batch, tokens, width } = await run;
  const fresh = sequences[0].length;
  const last = new Float32Array(batch * fresh * width);
  for (let row = 0; row < batch; row++) {
    const end = (row + 1) * tokens * width;
    last.set(data.subarray(end - fresh * width, end), row * fresh * width);
  }
  return {
    residual: { data: last, batch, tokens: fresh, width },
    cache: { keys: [], values: [], batch, tokens, sequences: all },
  };
}

async function forwardWith(model: Whole, embedded: Activations, supplied: SuppliedWeights): Promise<Activations> {
  let residual = embedded;
  for (let layer = 0; layer < model.layerCount; layer++) {
    residual = await model.forwardLayer(layer, residual, { supplied });
    await model.closeLayer(layer);
  }
  return residual;
}
