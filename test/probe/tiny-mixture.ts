import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { TINY_CONFIG, writeRandomModel } from "./tiny-model.js";

/** Mixtral's and GraniteMoE's layouts: a tensor for each matrix of an expert, or stacks of them. */
export type MixtureLayout = "mixtral" | "granitemoe";

export const MIXTURE = { experts: 4, perToken: 2, hidden: 48, width: 80, vocabulary: 256 };

/**
 * A small random mixture of experts with a tokenizer of bytes. The bias of its router keeps every token from expert
 * `unseen`.
 */
export function writeTinyMixture(folder: string, layout: MixtureLayout, unseen?: number): string {
  const { experts, perToken, hidden: H, width, vocabulary } = MIXTURE;
  const { num_attention_heads: A, num_key_value_heads: K, head_dim: D } = TINY_CONFIG;
  const config = {
    ...TINY_CONFIG,
    model_type: layout,
    num_hidden_layers: 2,
    vocab_size: vocabulary,
    num_local_experts: experts,
    num_experts_per_tok: perToken,
    tie_word_embeddings: true,
  };
  const tensors = [
    { name: "model.embed_tokens.weight", shape: [vocabulary, H] },
    { name: "model.norm.weight", shape: [H] },
  ];
  for (let layer = 0; layer < 2; layer++) {
    const add = (name: string, ...shape: number[]) => tensors.push({ name: `model.layers.${layer}.${name}`, shape });
    const moe = "block_sparse_moe";
    add("input_layernorm.weight", H);
    add("post_attention_layernorm.weight", H);
    add("self_attn.q_proj.weight", A * D, H);
    add("self_attn.k_proj.weight", K * D, H);
    add("self_attn.v_proj.weight", K * D, H);
    add("self_attn.o_proj.weight", H, A * D);
    const router = `${moe}.${layout === "mixtral" ? "gate" : "router.layer"}`;
    add(`${router}.weight`, experts, H);
    if (unseen !== undefined) add(`${router}.bias`, experts);
    if (layout === "granitemoe") {
      add(`${moe}.input_linear.weight`, experts, 2 * width, H);
      add(`${moe}.output_linear.weight`, experts, H, width);
    } else {
      for (let expert = 0; expert < experts; expert++) {
        add(`${moe}.experts.${expert}.w1.weight`, width, H);
        add(`${moe}.experts.${expert}.w3.weight`, width, H);
        add(`${moe}.experts.${expert}.w2.weight`, H, width);
      }
    }
  }
  writeRandomModel(folder, config, tensors, "F32", 5);
  if (unseen !== undefined) silence(folder, unseen);
  writeFileSync(join(folder, "tokenizer.json"), JSON.stringify(byteTokenizer()));
  writeFileSync(join(folder, "tokenizer_config.json"), JSON.stringify({ eos_token: "<|end|>" }));
  return folder;
}

/** Let the routers' biases choose every expert but one. */
function silence(folder: string, unseen: number): void {
  const path = join(folder, "model.safetensors");
  const file = readFileSync(path);
  const headerLength = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.subarray(8, 8 + headerLength).toString()) as Record<
    string,
    { data_offsets: number[] }
  >;
  for (const [name, { data_offsets }] of Object.entries(header)) {
    if (!/(?:gate|router\.layer)\.bias$/.test(name)) continue;
    for (let expert = 0; expert < MIXTURE.experts; expert++) {
      file.writeFloatLE(expert === unseen ? -1000 : 0, 8 + headerLength + data_offsets[0] + 4 * expert);
    }
  }
  writeFileSync(path, file);
}

/** Every byte is a token; the last one ends a text instead. */
function byteTokenizer(): unknown {
  const plain = [...range(33, 127), ...range(161, 173), ...range(174, 256)];
  let next = 256;
  const letters = range(0, 256).map((byte) => String.fromCharCode(plain.includes(byte) ? byte : next++));
  const bytes = { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: true };
  const end = { id: 255, content: "<|end|>", special: true, single_word: false, lstrip: false, rstrip: false };
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [{ ...end, normalized: false }],
    normalizer: null,
    pre_tokenizer: bytes,
    post_processor: null,
    decoder: bytes,
    model: {
      type: "BPE",
      vocab: Object.fromEntries(letters.slice(0, 255).map((letter, id) => [letter, id])),
      merges: [],
    },
  };
}

function range(from: number, to: number): number[] {
  return Array.from({ length: to - from }, (_, at) => from + at);
}
