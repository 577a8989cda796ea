import type { Architecture } from "../model/architecture.js";
import type { Site } from "../model/sites.js";
import type { Activations, SuppliedWeights } from "../probe/forward/activations.js";
import type { InnerInputs } from "../probe/forward/inner-inputs.js";
import type { InputChunk } from "./statistics.js";

/** One chunk of tokens before a step, as both streams have it. */
export interface SeenTokens {
  readonly operated: Activations;
  /** Absent where the streams are one. */
  readonly donor?: Activations;
  /** New weights of what lies before the site. */
  readonly supplied: SuppliedWeights;
  /** Whether tokens are weighed; `sizes` is what each counts where something is added to the residual stream. */
  readonly weigh: boolean;
  readonly sizes?: Float64Array | undefined;
  /** Tokens that count at all; default every one. For those who do not weigh. */
  readonly counts?: (token: number) => boolean;
}

/**
 * What a site inside a step sees of a chunk.
 *
 * An expert sees the tokens that the operated model sends to it, and the donor's inputs of those same tokens. They
 * count as much as what the expert makes of them does: by its router's share, by how much of an error in gate and up
 * its down passes on, and relative to the residual stream. Nothing of the stream's drift is taken back here: no
 * expert sees all tokens.
 */
export async function insideChunk(
  inner: InnerInputs,
  architecture: Architecture,
  layer: number,
  site: Site,
  seen: SeenTokens,
): Promise<InputChunk> {
  const { operated, donor, supplied } = seen;
  if (site.source === "shared") return sharedChunk(inner, site, seen);
  if (site.source !== "expert") {
    return {
      operated: counted(seen, (await inner.latent(operated, site, supplied)).data, site.width),
      ...(donor === undefined ? {} : { donor: counted(seen, (await inner.latent(donor, site)).data, site.width) }),
    };
  }
  const { routing } = architecture.layers[layer].experts!;
  const expert = site.expert!;
  const routed = await routedTo(inner, expert, seen, routing.scalesInput ?? false);
  const weights = await expertWeights(inner, expert, site, seen, routed);
  const isDown = site.step === "down";
  return {
    operated: isDown ? await inner.expertHidden(expert, routed.operated, supplied) : routed.operated,
    ...(routed.donor === undefined
      ? {}
      : { donor: isDown ? await inner.expertHidden(expert, routed.donor) : routed.donor }),
    ...(weights === undefined ? {} : { weights }),
  };
}

interface Routed {
  /** Their numbers in the chunk. */
  readonly tokens: readonly number[];
  /** What the expert's output of each counts; 1 where its input was scaled instead. */
  readonly shares: Float64Array;
  /** (tokens, hidden) as the expert's gate and up take them. */
  readonly operated: Float32Array;
  readonly donor?: Float32Array;
}

/** The tokens that the operated stream sends to an expert. */
async function routedTo(inner: InnerInputs, expert: number, seen: SeenTokens, scalesInput: boolean): Promise<Routed> {
  const { operated, donor, counts } = seen;
  const routing = await inner.routing(operated);
  const experts = (routing.length * operated.width) / operated.data.length;
  const tokens: number[] = [];
  for (let token = 0; token * experts < routing.length; token++) {
    if (routing[token * experts + expert] !== 0 && (counts?.(token) ?? true)) tokens.push(token);
  }
  const share = (token: number): number => routing[token * experts + expert];
  const rows = ({ data, width }: Activations): Float32Array => {
    const picked = new Float32Array(tokens.length * width);
    tokens.forEach((token, at) => {
      const factor = scalesInput ? share(token) : 1;
      for (let col = 0; col < width; col++) picked[at * width + col] = data[token * width + col] * factor;
    });
    return picked;
  };
  return {
    tokens,
    shares: Float64Array.from(tokens, (token) => (scalesInput ? 1 : share(token))),
    operated: rows(operated),
    ...(donor === undefined ? {} : { donor: rows(donor) }),
  };
}

async function expertWeights(
  inner: InnerInputs,
  expert: number,
  { step }: Site,
  { weigh, sizes }: SeenTokens,
  { tokens, shares, operated, donor }: Routed,
): Promise<Float64Array | undefined> {
  if (!weigh) return undefined;
  const heard = step === "down" ? undefined : await inner.expertListening(expert, donor ?? operated);
  return Float64Array.from(tokens, (token, at) => {
    const passed = heard === undefined ? 1 : Math.sqrt(heard[at]);
    return shares[at] * passed * (sizes?.[token] ?? 1);
  });
}

/** Inside the MLP that every token passes beside the experts. */
async function sharedChunk(inner: InnerInputs, { step, width }: Site, seen: SeenTokens): Promise<InputChunk> {
  const { operated, donor, supplied, weigh, sizes } = seen;
  const isDown = step === "down";
  const inputs = async (stream: Activations, weights?: SuppliedWeights): Promise<Float32Array> =>
    counted(seen, isDown ? await inner.sharedHidden(stream, weights) : stream.data, width);
  const chunk = {
    operated: await inputs(operated, supplied),
    ...(donor === undefined ? {} : { donor: await inputs(donor) }),
  };
  if (!weigh) return chunk;
  const { listening, share } = await inner.sharedListening(donor ?? operated);
  const weights = Float64Array.from(
    share,
    (own, token) => own * (isDown ? 1 : Math.sqrt(listening[token])) * (sizes?.[token] ?? 1),
  );
  return { ...chunk, weights };
}

/** Rows of the tokens that count. */
function counted({ counts }: SeenTokens, values: Float32Array, width: number): Float32Array {
  if (counts === undefined) return values;
  const kept: number[] = [];
  for (let token = 0; token * width < values.length; token++) if (counts(token)) kept.push(token);
  const rows = new Float32Array(kept.length * width);
  kept.forEach((token, at) => {
    rows.set(values.subarray(token * width, (token + 1) * width), at * width);
  });
  return rows;
}
