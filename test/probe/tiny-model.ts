import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll } from "vitest";
import { serializeHeader } from "../../dist/safetensors/writer.js";

export interface TinyModel {
  readonly config: Record<string, unknown>;
  /** q, k, v in one tensor, gate and up in another. */
  readonly fused?: boolean;
  readonly qkvBias?: boolean;
  readonly allBiases?: boolean;
  readonly headNorms?: boolean;
  readonly sandwich?: boolean;
  readonly untied?: boolean;
  readonly dtype?: "F32" | "BF16" | "F16";
  /** Tensors besides those of the architecture. */
  readonly extra?: readonly { name: string; shape: number[] }[];
}

export const TINY_CONFIG = {
  hidden_size: 48,
  intermediate_size: 80,
  num_hidden_layers: 3,
  num_attention_heads: 6,
  num_key_value_heads: 2,
  head_dim: 16,
  vocab_size: 97,
  max_position_embeddings: 256,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
};

const made: string[] = [];
afterAll(() => {
  for (const folder of made) rmSync(folder, { recursive: true, force: true });
});

/** A folder for one model or text; a test file's are removed behind its last test. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "physarium-probe-"));
  made.push(folder);
  return folder;
}

/** Write a random model of the given shape; weights and norms are all different, so a mixed-up tensor shows. */
export function writeTinyModel(folder: string, model: TinyModel, seed = 1): string {
  const config = { ...TINY_CONFIG, tie_word_embeddings: !model.untied, ...model.config };
  const { hidden_size: H, intermediate_size: I, num_attention_heads: A, num_key_value_heads: K, head_dim: D } = config;
  const tensors: { name: string; shape: number[] }[] = [
    { name: "model.embed_tokens.weight", shape: [config.vocab_size, H] },
    { name: "model.norm.weight", shape: [H] },
    ...(model.untied ? [{ name: "lm_head.weight", shape: [config.vocab_size, H] }] : []),
    ...(model.extra ?? []),
  ];
  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    const add = (name: string, ...shape: number[]) => tensors.push({ name: `model.layers.${layer}.${name}`, shape });
    const linear = (name: string, rows: number, cols: number, hasBias: boolean | undefined) => {
      add(`${name}.weight`, rows, cols);
      if (hasBias) add(`${name}.bias`, rows);
    };
    add("input_layernorm.weight", H);
    add("post_attention_layernorm.weight", H);
    if (model.sandwich) {
      add("pre_feedforward_layernorm.weight", H);
      add("post_feedforward_layernorm.weight", H);
    }
    if (model.headNorms) {
      add("self_attn.q_norm.weight", D);
      add("self_attn.k_norm.weight", D);
    }
    const qkvBias = model.qkvBias || model.allBiases;
    if (model.fused) linear("self_attn.qkv_proj", (A + 2 * K) * D, H, qkvBias);
    else {
      linear("self_attn.q_proj", A * D, H, qkvBias);
      linear("self_attn.k_proj", K * D, H, qkvBias);
      linear("self_attn.v_proj", K * D, H, qkvBias);
    }
    linear("self_attn.o_proj", H, A * D, model.allBiases);
    if (model.fused) linear("mlp.gate_up_proj", 2 * I, H, model.allBiases);
    else {
      linear("mlp.gate_proj", I, H, model.allBiases);
      linear("mlp.up_proj", I, H, model.allBiases);
    }
    linear("mlp.down_proj", H, I, model.allBiases);
  }
  return writeRandomModel(folder, config, tensors, model.dtype, seed);
}

/** Write a model of these tensors. */
export function writeRandomModel(
  folder: string,
  config: Readonly<Record<string, unknown>>,
  tensors: readonly { name: string; shape: number[] }[],
  dtype: "F32" | "BF16" | "F16" = "BF16",
  seed = 1,
): string {
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "config.json"), JSON.stringify(config));
  const header = serializeHeader(tensors.map(({ name, shape }) => ({ name, dtype, shape })));
  const file = Buffer.alloc(header.fileByteLength);
  file.set(header.bytes);
  const random = randomNumbers(seed);
  for (const { shape, byteOffset, byteLength, name } of header.tensors) {
    const width = dtype === "F32" ? 4 : 2;
    const isNorm = name.includes("norm");
    // Large enough that attention is far from even and a wrong mask or scale shows.
    const scale = isNorm || name.endsWith("bias") ? 0.3 : 1.6 / Math.sqrt(shape[shape.length - 1]);
    for (let at = 0; at < byteLength; at += width) {
      const value = (isNorm ? 0.8 : 0) + scale * (random() + random() + random() - 1.5);
      if (dtype === "F32") file.writeFloatLE(value, byteOffset + at);
      else file.writeUInt16LE(dtype === "BF16" ? toBfloat16(value) : toFloat16(value), byteOffset + at);
    }
  }
  writeFileSync(join(folder, "model.safetensors"), file);
  return folder;
}

/** Lehmer's generator (Park and Miller 1988): uniform in (0, 1). */
export function randomNumbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 48271) % 2147483647;
    return state / 2147483647;
  };
}

function toBfloat16(value: number): number {
  const view = new DataView(new ArrayBuffer(4));
  view.setFloat32(0, value);
  return view.getUint16(0);
}

/** Truncated; normal numbers only, tiny ones become 0. */
function toFloat16(value: number): number {
  const sign = value < 0 ? 0x8000 : 0;
  const magnitude = Math.abs(value);
  if (magnitude < 2 ** -14) return sign;
  const exponent = Math.floor(Math.log2(magnitude));
  return sign | ((exponent + 15) << 10) | Math.floor((magnitude / 2 ** exponent - 1) * 1024);
}
