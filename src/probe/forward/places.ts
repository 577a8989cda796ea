import type { Engine, Feeds } from "../../engine/session.js";
import { PhysariumError } from "../../errors.js";
import type { Architecture } from "../../model/architecture.js";
import { isLong, queryScales, ropeTables } from "../../model/rope.js";
import { attendsPlainly, maskInput, POSITION_INPUTS, ropesOf } from "./graph-parts.js";

/** What the places of tokens mean to a model: tables of its ropes, masks, and whatever else counts tokens. */
export class Places {
  private readonly tables = new Map<string, { cos: Float32Array; sin: Float32Array; positions: number }>();

  constructor(
    private readonly architecture: Architecture,
    private readonly engine: Engine,
  ) {}

  /**
   * What every graph with attention is fed: places `past … past + tokens − 1`, the same for each row of the batch.
   * `plain`: for attention of standard operators.
   */
  feeds(batch: number, tokens: number, past: number, plain = this.engine.portable): Feeds {
    const total = past + tokens;
    this.refuseChunks(total);
    const feeds: Feeds = {
      [POSITION_INPUTS.ids]: this.engine.i64(placesOf(batch, tokens, past), [batch, tokens]),
      [POSITION_INPUTS.last]: this.engine.i32(new Int32Array(batch).fill(total - 1), [batch]),
      [POSITION_INPUTS.total]: this.engine.i32(Int32Array.of(total), []),
    };
    if (attendsPlainly(this.architecture, plain)) {
      for (const { slidingWindow } of this.architecture.layers) {
        feeds[maskInput(slidingWindow)] ??= this.engine.f32(
          attentionMask(tokens, past, slidingWindow, this.architecture.bidirectional),
          [tokens, total],
        );
      }
    }
    if (this.architecture.alibiScale !== undefined) {
      feeds[POSITION_INPUTS.places] = this.engine.f32(
        Float32Array.from({ length: total }, (_, place) => place),
        [total],
      );
    }
    ropesOf(this.architecture).forEach((rope, number) => {
      const key = `${number}${isLong(rope, total) ? " long" : ""}`;
      let table = this.tables.get(key);
      if (table === undefined || table.positions < total) {
        // In steps, so that generating token by token does not make a new table each time.
        const positions = Math.max(256, 2 ** Math.ceil(Math.log2(total)));
        table = { ...ropeTables(rope, positions, total), positions };
        this.tables.set(key, table);
      }
      const dims = [table.positions, rope.inverseFrequencies.length];
      feeds[`cos_${number}`] = this.engine.f32(table.cos, dims);
      feeds[`sin_${number}`] = this.engine.f32(table.sin, dims);
      if (rope.queryScale !== undefined) {
        const scales = queryScales(rope.queryScale, table.positions);
        feeds[`query_scale_${number}`] = this.engine.f32(scales, [table.positions]);
      }
    });
    return feeds;
  }

  /** Attention in chunks is the same as attention to everything as long as a text is one chunk. */
  private refuseChunks(total: number): void {
    const chunk = Math.min(...this.architecture.layers.map((layer) => layer.chunk ?? Number.POSITIVE_INFINITY));
    if (total <= chunk) return;
    throw new PhysariumError(
      "DONOR_ARCHITECTURE",
      `config.json: attention_chunk_size is ${chunk}, and a text of ${total} tokens is longer than one chunk; give ` +
        "a shorter window",
      { chunk, total },
    );
  }
}

/** Places `past … past + tokens − 1` for each row of a batch. */
export function placesOf(batch: number, tokens: number, past: number): BigInt64Array {
  return BigInt64Array.from({ length: batch * tokens }, (_, at) => BigInt(past + (at % tokens)));
}

/**
 * What is added to attention scores, (tokens, past + tokens): 0 where a token may look, so low elsewhere that nothing
 * is left after softmax.
 */
function attentionMask(
  tokens: number,
  past: number,
  slidingWindow = Number.POSITIVE_INFINITY,
  looksAhead = false,
): Float32Array {
  const total = past + tokens;
  // Not infinite: a backend may compile infinities away.
  const mask = new Float32Array(tokens * total).fill(-1e30);
  for (let token = 0; token < tokens; token++) {
    const last = past + token;
    const first = Math.max(0, last - slidingWindow + 1);
    const end = looksAhead ? Math.min(total, last + slidingWindow) : last + 1;
    mask.fill(0, token * total + first, token * total + end);
  }
  return mask;
}
