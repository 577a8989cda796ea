import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { layoutTensors } from "../../dist/export/gguf/layout.js";
import { parseModelConfig } from "../../dist/export/model-config.js";
import { bf16OfF32Bits, encodeFloats } from "../../dist/safetensors/float-bits.js";
import { serializeHeader } from "../../dist/safetensors/writer.js";

export interface DonorRecipe {
  readonly config: Readonly<Record<string, unknown>>;
  readonly dtype?: "BF16" | "F16" | "F32";
  /** Share of the weights in matrices that are zero. */
  readonly sparsity?: number;
  /** Optional tensors (biases) to write, by a part of their names. */
  readonly withOptional?: readonly string[];
  readonly tokenizer?: boolean;
  readonly seed?: number;
  /** Tensors as the family lays them out, then changed at will. */
  readonly change?: (name: string, weights: Float32Array) => Float32Array | undefined;
}

/** A small configuration of a family; override what a test is about. */
export function smallConfig(modelType: string, overrides: Record<string, unknown> = {}): Record<string, unknown> {
  return {
    model_type: modelType,
    vocab_size: 256,
    hidden_size: 64,
    intermediate_size: 96,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    max_position_embeddings: 128,
    rms_norm_eps: 1e-6,
    rope_theta: 10000,
    tie_word_embeddings: false,
    ...overrides,
  };
}

/** mulberry32: small, fast, the same everywhere. */
export function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Write a model folder with random weights, every tensor of its family in it. */
export function writeDonor(folder: string, recipe: DonorRecipe): string {
  const { config, dtype = "BF16", sparsity = 0, withOptional = [] } = recipe;
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "config.json"), JSON.stringify(config));
  const random = generator(recipe.seed ?? 1);
  const pairs = layoutTensors(parseModelConfig(JSON.stringify(config), "config.json")).filter(
    ({ optional, name }) => !optional || withOptional.some((part) => name.includes(part)),
  );
  const parts = pairs.map(({ name, shape }) => {
    const values = new Float32Array(shape.reduce((product, each) => product * each, 1));
    for (let i = 0; i < values.length; i++) {
      const normal = random() + random() + random() + random() - 2;
      values[i] = shape.length === 1 ? 1 + 0.1 * normal : random() < sparsity ? 0 : 0.1 * normal;
    }
    return encodeFloats(recipe.change?.(name, values) ?? values, dtype);
  });
  const header = serializeHeader(pairs.map(({ name, shape }) => ({ name, shape, dtype })));
  writeFileSync(join(folder, "model.safetensors"), Buffer.concat([header.bytes, ...parts]));
  if (recipe.tokenizer) {
    writeFileSync(join(folder, "tokenizer.json"), JSON.stringify(byteTokenizer()));
    writeFileSync(join(folder, "tokenizer_config.json"), JSON.stringify({ eos_token: "<|end|>", bos_token: null }));
  }
  return folder;
}

/** GPT-2's printable character of each byte. */
export function byteCharacters(): string[] {
  const printable = (byte: number): boolean =>
    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : next++));
}

/** A byte-level tokenizer without merges: token 255, never part of UTF-8, is the end. */
export function byteTokenizer(): Record<string, unknown> {
  const vocab = Object.fromEntries(byteCharacters().map((character, id) => [character, id]));
  delete vocab[byteCharacters()[255]];
  return {
    version: "1.0",
    added_tokens: [
      {
        id: 255,
        content: "<|end|>",
        special: true,
        single_word: false,
        lstrip: false,
        rstrip: false,
        normalized: false,
      },
    ],
    normalizer: null,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: true },
    post_processor: null,
    decoder: { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: true },
    model: { type: "BPE", dropout: null, unk_token: null, fuse_unk: false, byte_fallback: false, vocab, merges: [] },
  };
}

/** The BF16 nearest to a number, as a number. */
export function toBf16(value: number): number {
  const bits = bf16OfF32Bits(new Uint32Array(new Float32Array([value]).buffer)[0]);
  return new Float32Array(new Uint32Array([bits << 16]).buffer)[0];
}
