/**
 * Attention through a latent (DeepSeek V2, arXiv:2405.04434): queries, keys and values are unfolded from a few
 * channels.
 */
export interface LatentAttention {
  /** Channels of the query's latent; `undefined` where queries come from the hidden state in one product. */
  readonly queryRank: number | undefined;
  /** Channels of the latent that keys and values share. */
  readonly keyValueRank: number;
  /** Of each head: channels without position, channels that turn, channels of a value. */
  readonly plainDim: number;
  readonly ropeDim: number;
  readonly valueDim: number;
}

/** A gated short convolution in the place of attention. source: LFM2, `Lfm2ShortConv` of transformers 5.24 */
export interface ShortConvolution {
  /** Tokens that each channel looks at, itself included. */
  readonly kernelSize: number;
}

/** Linear attention by the gated delta rule (arXiv:2412.06464), as Qwen3-Next and Qwen3.5 have it. */
export interface DeltaRule {
  readonly keyHeadCount: number;
  readonly valueHeadCount: number;
  readonly keyDim: number;
  readonly valueDim: number;
  readonly kernelSize: number;
  /**
   * Qwen3-Next keeps q, k, v, z in one matrix, head group by head group; Qwen3.5 q, k, v in one and z, b, a each alone.
   */
  readonly layout: "grouped" | "apart";
}

/** What stands in the place of plain softmax attention in a layer. */
export type Mixer =
  | ({ readonly kind: "latent" } & LatentAttention)
  | ({ readonly kind: "convolution" } & ShortConvolution)
  | ({ readonly kind: "delta rule" } & DeltaRule);
