import { type Architecture, type QueryKeyNorm, sizedFor } from "../../model/architecture.js";
import type { Experts } from "../../model/experts.js";
import type { GgufTraits } from "../../model/gguf.js";
import { layerBase } from "../../model/names.js";
import { linearAttentionLinks } from "./linear-links.js";
import { type Link, link, pairedHeads, ungrouped } from "./links.js";

/**
 * All tensors of a decoder under their two names, in the order of the file: read off the architecture that the forward
 * pass uses, so that a family says nothing twice.
 *
 * prefix, head  what stands before the decoder's tensors in the checkpoint, and the name of its output matrix
 * source: llama.cpp gguf-py/gguf/tensor_mapping.py
 */
export function familyLinks(architecture: Architecture, traits: GgufTraits, prefix: string, head: string): Link[] {
  const { names, hiddenSize, vocabSize, norm, tiedEmbeddings, maxPositions, learnedPositions } = architecture;
  const links: Link[] = [];
  const rename = (path: string, usual: string): string => traits.names?.[path] ?? usual;
  const normed = (path: string, ggufName: string): void => {
    if (!norm.affine) return;
    const values = norm.offset === 1 ? "plus one" : "same";
    const shape = [hiddenSize];
    links.push(link({ name: `${path}.weight`, ggufName: `${ggufName}.weight`, shape, values }));
    if (norm.kind === "layer") {
      links.push(link({ name: `${path}.bias`, ggufName: `${ggufName}.bias`, shape, optional: true }));
    }
  };
  links.push(
    link({ name: `${prefix}${names.embedding}.weight`, ggufName: "token_embd.weight", shape: [vocabSize, hiddenSize] }),
  );
  const { perLayerInputs, layerCount } = architecture;
  if (names.perLayer !== undefined && perLayerInputs !== undefined) {
    const { table, projection, norm: path } = names.perLayer;
    const { width } = perLayerInputs;
    const told = (name: string, ggufName: string, shape: readonly number[]): void =>
      void links.push(link({ name: `${prefix}${name}.weight`, ggufName: `${ggufName}.weight`, shape }));
    told(table, "per_layer_token_embd", [perLayerInputs.vocabSize, layerCount * width]);
    told(projection, "per_layer_model_proj", [layerCount * width, hiddenSize]);
    told(path, "per_layer_proj_norm", [width]);
  }
  if (names.embeddingNorm !== undefined) normed(`${prefix}${names.embeddingNorm}`, "token_embd_norm");
  if (names.positions !== undefined) {
    const shape = [maxPositions + (learnedPositions ?? 0), hiddenSize];
    links.push(link({ name: `${prefix}${names.positions}.weight`, ggufName: "position_embd.weight", shape }));
  }
  for (let layer = 0; layer < architecture.layerCount; layer++) {
    new LayerLinks(architecture, traits, layerBase(names, prefix, layer), layer, links).add();
  }
  normed(`${prefix}${names.finalNorm}`, rename(names.finalNorm, "output_norm"));
  const shape = [vocabSize, hiddenSize];
  links.push(link({ name: `${head}.weight`, ggufName: "output.weight", shape, optional: tiedEmbeddings }));
  links.push(link({ name: `${head}.bias`, ggufName: "output.bias", shape: [vocabSize], optional: true }));
  return links;
}

class LayerLinks {
  private readonly to: string;
  private readonly architecture: Architecture;

  constructor(
    architecture: Architecture,
    private readonly traits: GgufTraits,
    private readonly from: string,
    private readonly layer: number,
    private readonly links: Link[],
  ) {
    this.to = `blk.${layer}.`;
    this.architecture = sizedFor(architecture, layer);
  }

  add(): void {
    const { block, names, layers, attentionSinks, headCount } = this.architecture;
    const { mixer, experts } = layers[this.layer];
    this.norm(block.attentionIn, "attn_norm");
    if (mixer?.kind === "convolution") this.convolution();
    else if (mixer?.kind === "latent") this.latent();
    else if (mixer?.kind === "delta rule") {
      const { hiddenSize } = this.architecture;
      linearAttentionLinks(mixer, hiddenSize, (path, ...rest) => this.push(`linear_attn.${path}`, ...rest));
    } else this.attention();
    if (attentionSinks) this.push(names.extra?.sinks ?? "", "attn_sinks.weight", [headCount]);
    this.norm(block.attentionOut, "post_attention_norm");
    if (block.mlpIn !== block.attentionIn) this.norm(block.mlpIn, "ffn_norm");
    if (experts !== undefined) this.experts(experts);
    else this.mlp(names.gateUp, names.down, this.architecture.intermediateSize, "");
    this.norm(block.mlpOut, "post_ffw_norm");
    this.perLayer();
    if (names.layerScalar !== undefined) this.push(names.layerScalar, "layer_output_scale.weight", [1]);
  }

  private push(path: string, ggufPath: string, shape: readonly number[], more: Partial<Link> = {}): void {
    this.links.push(link({ name: `${this.from}${path}`, ggufName: `${this.to}${ggufPath}`, shape, ...more }));
  }

  private norm(path: string | undefined, usual: string): void {
    const { norm, hiddenSize } = this.architecture;
    if (path === undefined || !norm.affine) return;
    const ggufPath = this.traits.names?.[path] ?? usual;
    this.push(`${path}.weight`, `${ggufPath}.weight`, [hiddenSize], {
      values: norm.offset === 1 ? "plus one" : "same",
    });
    if (norm.kind === "layer") this.push(`${path}.bias`, `${ggufPath}.bias`, [hiddenSize], { optional: true });
  }

  /** What a layer is told of each token. */
  private perLayer(): void {
    const { names, hiddenSize, perLayerInputs } = this.architecture;
    if (names.perLayer === undefined || perLayerInputs === undefined) return;
    const { gate, out, outNorm } = names.perLayer;
    this.push(`${gate}.weight`, "inp_gate.weight", [perLayerInputs.width, hiddenSize]);
    this.push(`${out}.weight`, "proj.weight", [hiddenSize, perLayerInputs.width]);
    this.push(`${outNorm}.weight`, "post_norm.weight", [hiddenSize]);
  }

  /** A product with its bias, if the checkpoint has one. */
  private product(path: string, ggufPath: string, rows: number, cols: number, more: Partial<Link> = {}): void {
    const { transposed } = this.architecture;
    const shape = transposed ? [cols, rows] : [rows, cols];
    this.push(`${path}.weight`, `${ggufPath}.weight`, shape, {
      ggufShape: [rows, cols],
      transposed,
      ...more,
    });
    this.push(`${path}.bias`, `${ggufPath}.bias`, [rows], { ...more, optional: true });
  }

  private attention(): void {
    const { names, hiddenSize, headCount, kvHeadCount, headDim, qkvLayout, qkNorm, layers } = this.architecture;
    const gates = this.architecture.gatedQueries ? 2 : 1;
    const [queries, keys] = [headCount * headDim, kvHeadCount * headDim];
    if (names.qkv.length === 1) {
      const order = qkvLayout === "groups" ? ungrouped(headCount, kvHeadCount, headDim) : {};
      this.product(names.qkv[0], "attn_qkv", queries + 2 * keys, hiddenSize, order);
    } else {
      const turns = layers.find(({ rope }) => rope !== undefined)?.rope;
      const reorders = this.traits.turnsPairs === true && turns !== undefined && turns.interleaved !== true;
      const paired = (heads: number): Partial<Link> => (reorders ? pairedHeads(heads, headDim) : {});
      this.product(names.qkv[0], "attn_q", gates * queries, hiddenSize, paired(headCount));
      // A layer that takes another's keys may have its own in the file, unused.
      const { takesKeys, valuesAreKeys } = layers[this.layer];
      const unused = takesKeys === undefined ? {} : { optional: true };
      this.product(names.qkv[1], "attn_k", keys, hiddenSize, { ...paired(kvHeadCount), ...unused });
      if (valuesAreKeys !== true) this.product(names.qkv[2], "attn_v", keys, hiddenSize, unused);
    }
    this.product(names.o, "attn_output", hiddenSize, queries);
    if (qkNorm === undefined) return;
    this.headNorm(qkNorm, qkNorm.query, "attn_q_norm", headCount);
    this.headNorm(qkNorm, qkNorm.key, "attn_k_norm", kvHeadCount, layers[this.layer].takesKeys !== undefined);
  }

  private headNorm({ over }: QueryKeyNorm, path: string, ggufPath: string, heads: number, optional = false): void {
    const { headDim, norm } = this.architecture;
    const values = norm.offset === 1 ? "plus one" : "same";
    if (over === "tensors") {
      for (let head = 0; head < heads; head++) {
        const piece = { ggufShape: [heads, headDim], ggufRow: head, rowCount: 1, matrixRows: 1 };
        this.push(`${path}.norms.${head}.weight`, `${ggufPath}.weight`, [headDim], piece);
      }
      return;
    }
    const shape = over === "head" ? [headDim] : over === "width" ? [heads * headDim] : [heads, headDim];
    this.push(`${path}.weight`, `${ggufPath}.weight`, shape, { values, optional });
  }

  private mlp(gateUp: readonly string[], down: string, width: number, ending: string): void {
    const { hiddenSize, mlp } = this.architecture;
    if (gateUp.length === 2) {
      this.product(gateUp[0], `ffn_gate${ending}`, width, hiddenSize);
      this.product(gateUp[1], `ffn_up${ending}`, width, hiddenSize);
    } else {
      this.product(gateUp[0], `ffn_up${ending}`, mlp === "gated_rows" ? 2 * width : width, hiddenSize);
    }
    this.product(down, `ffn_down${ending}`, hiddenSize, width);
  }

  private experts(experts: Experts): void {
    const { hiddenSize } = this.architecture;
    const { count, width, routing, layout, shared } = experts;
    this.push(`${routing.path}.weight`, "ffn_gate_inp.weight", [count, hiddenSize]);
    this.push(`${routing.path}.bias`, "ffn_gate_inp.bias", [count], { optional: true });
    if (routing.correction !== undefined) this.push(routing.correction, "exp_probs_b.bias", [count]);
    for (let expert = 0; expert < count; expert++) {
      const stacked = (rows: number, cols: number): Partial<Link> => ({
        ggufShape: [count, rows, cols],
        ggufRow: expert * rows,
        rowCount: rows,
      });
      if (layout.kind === "split") {
        const path = (given: string): string => `${given.replace("{e}", `${expert}`)}.weight`;
        const [wide, deep] = [stacked(width, hiddenSize), stacked(hiddenSize, width)];
        this.push(path(layout.gate), "ffn_gate_exps.weight", [width, hiddenSize], { ...wide, matrixRows: width });
        this.push(path(layout.up), "ffn_up_exps.weight", [width, hiddenSize], { ...wide, matrixRows: width });
        this.push(path(layout.down), "ffn_down_exps.weight", [hiddenSize, width], { ...deep, matrixRows: hiddenSize });
        continue;
      }
      const { transposed, interleaved, biased } = layout;
      const both = transposed ? [count, hiddenSize, 2 * width] : [count, 2 * width, hiddenSize];
      const back = transposed ? [count, width, hiddenSize] : [count, hiddenSize, width];
      const half = (second: 0 | 1): Partial<Link> =>
        interleaved === true
          ? { order: Int32Array.from({ length: width }, (_, row) => 2 * row + second) }
          : { start: second * width };
      for (const [second, name] of [
        [0, "ffn_gate_exps"],
        [1, "ffn_up_exps"],
      ] as const) {
        const place = { matrix: expert, matrixRows: 2 * width, ...half(second) };
        this.push(layout.gateUp, `${name}.weight`, both, { ...stacked(width, hiddenSize), ...place, transposed });
        if (!biased) continue;
        this.push(`${layout.gateUp}_bias`, `${name}.bias`, [count, 2 * width], {
          ...place,
          ggufShape: [count, width],
          ggufRow: expert * width,
          rowCount: width,
          rowLength: 1,
        });
      }
      this.push(layout.down, "ffn_down_exps.weight", back, {
        ...stacked(hiddenSize, width),
        matrix: expert,
        matrixRows: hiddenSize,
        transposed,
      });
    }
    if (layout.kind === "stacked" && layout.biased === true) {
      this.push(`${layout.down}_bias`, "ffn_down_exps.bias", [count, hiddenSize]);
    }
    if (shared === undefined) return;
    const paths = ["gate_proj", "up_proj", "down_proj"].map((part) => `${shared.path}.${part}`);
    this.mlp(paths.slice(0, 2), paths[2], shared.width, "_shexp");
    if (shared.gate === undefined) return;
    this.push(`${shared.gate}.weight`, "ffn_gate_inp_shexp.weight", [1, hiddenSize], {
      ggufShape: [hiddenSize],
      rowCount: hiddenSize,
    });
  }

  private convolution(): void {
    const { hiddenSize, layers } = this.architecture;
    const mixer = layers[this.layer].mixer;
    const kernelSize = mixer?.kind === "convolution" ? mixer.kernelSize : 0;
    this.push("conv.conv.weight", "shortconv.conv.weight", [hiddenSize, 1, kernelSize], {
      ggufShape: [hiddenSize, kernelSize],
    });
    this.product("conv.in_proj", "shortconv.in_proj", 3 * hiddenSize, hiddenSize);
    this.product("conv.out_proj", "shortconv.out_proj", hiddenSize, hiddenSize);
  }

  private latent(): void {
    const { hiddenSize, headCount, layers, names } = this.architecture;
    const mixer = layers[this.layer].mixer;
    if (mixer?.kind !== "latent") return;
    const { queryRank, keyValueRank, plainDim, ropeDim, valueDim } = mixer;
    const queries = headCount * (plainDim + ropeDim);
    if (queryRank === undefined) this.product("self_attn.q_proj", "attn_q", queries, hiddenSize);
    else {
      this.product("self_attn.q_a_proj", "attn_q_a", queryRank, hiddenSize);
      this.push("self_attn.q_a_layernorm.weight", "attn_q_a_norm.weight", [queryRank]);
      this.product("self_attn.q_b_proj", "attn_q_b", queries, queryRank);
    }
    this.product("self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa", keyValueRank + ropeDim, hiddenSize);
    this.push("self_attn.kv_a_layernorm.weight", "attn_kv_a_norm.weight", [keyValueRank]);
    this.product("self_attn.kv_b_proj", "attn_kv_b", headCount * (plainDim + valueDim), keyValueRank);
    this.product(names.o, "attn_output", hiddenSize, headCount * valueDim);
  }
}
