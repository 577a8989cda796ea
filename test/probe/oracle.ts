/**
 * A plain forward pass in f64, one loop a formula, for small models in tests: nothing of src/probe is used, so that
 * agreement means something. Reads a single-file safetensors model by itself. Shapes stand beside names: W (out, in), x
 * (tokens, width).
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

type Matrix = Float64Array;
type Json = Record<string, unknown>;

export class Oracle {
  private readonly config: Json;
  private readonly tensors = new Map<string, Matrix>();
  private readonly hidden: number;
  private readonly heads: number;
  private readonly kvHeads: number;
  private readonly headDim: number;
  private readonly isGemma: boolean;

  constructor(folder: string) {
    this.config = JSON.parse(readFileSync(join(folder, "config.json"), "utf8"));
    for (const file of readdirSync(folder).filter((name) => name.endsWith(".safetensors"))) {
      readTensors(readFileSync(join(folder, file)), this.tensors);
    }
    this.hidden = this.number("hidden_size");
    this.heads = this.number("num_attention_heads");
    this.kvHeads = this.number("num_key_value_heads");
    this.headDim = (this.config.head_dim as number | undefined) ?? this.hidden / this.heads;
    this.isGemma = String(this.config.model_type).startsWith("gemma");
  }

  /** logits (tokens, vocabulary) */
  logits(ids: readonly number[]): Matrix {
    const T = ids.length;
    const embedding = this.get("model.embed_tokens.weight");
    const scale = this.isGemma ? Math.sqrt(this.hidden) : 1;
    let x: Matrix = new Float64Array(T * this.hidden);
    ids.forEach((id, t) => {
      for (let c = 0; c < this.hidden; c++) x[t * this.hidden + c] = embedding[id * this.hidden + c] * scale;
    });
    for (let layer = 0; layer < this.number("num_hidden_layers"); layer++) x = this.layer(layer, x, T);
    x = this.norm(x, "model.norm", this.hidden);
    const head = this.tensors.get("lm_head.weight") ?? embedding;
    const logits = multiply(x, head, this.number("vocab_size"), this.hidden);
    const cap = this.config.final_logit_softcapping as number | undefined;
    return cap === undefined ? logits : logits.map((value) => cap * Math.tanh(value / cap));
  }

  private layer(layer: number, x: Matrix, T: number): Matrix {
    const at = (name: string): string => `model.layers.${layer}.${name}`;
    const sandwich = this.tensors.has(`${at("pre_feedforward_layernorm")}.weight`);
    let attended = this.attention(layer, this.norm(x, at("input_layernorm"), this.hidden), T);
    if (sandwich) attended = this.norm(attended, at("post_attention_layernorm"), this.hidden);
    const mid = x.map((value, i) => value + attended[i]);
    const inner = this.norm(mid, at(sandwich ? "pre_feedforward_layernorm" : "post_attention_layernorm"), this.hidden);
    let out = this.mlp(at, inner);
    if (sandwich) out = this.norm(out, at("post_feedforward_layernorm"), this.hidden);
    return mid.map((value, i) => value + out[i]);
  }

  private attention(layer: number, x: Matrix, T: number): Matrix {
    const { heads, kvHeads, headDim: d } = this;
    const at = (name: string): string => `model.layers.${layer}.self_attn.${name}`;
    let q: Matrix;
    let k: Matrix;
    let v: Matrix;
    if (this.tensors.has(`${at("qkv_proj")}.weight`)) {
      const width = (heads + 2 * kvHeads) * d;
      const all = this.linear(x, at("qkv_proj"), width, this.hidden);
      q = columns(all, width, 0, heads * d);
      k = columns(all, width, heads * d, (heads + kvHeads) * d);
      v = columns(all, width, (heads + kvHeads) * d, width);
    } else {
      q = this.linear(x, at("q_proj"), heads * d, this.hidden);
      k = this.linear(x, at("k_proj"), kvHeads * d, this.hidden);
      v = this.linear(x, at("v_proj"), kvHeads * d, this.hidden);
    }
    if (this.tensors.has(`${at("q_norm")}.weight`)) {
      q = this.norm(q, at("q_norm"), d);
      k = this.norm(k, at("k_norm"), d);
    }
    const rope = this.rope(layer);
    if (rope !== undefined) {
      q = turn(q, T, heads, d, rope);
      k = turn(k, T, kvHeads, d, rope);
    }
    const window = this.window(layer);
    const scalar = this.config.query_pre_attn_scalar as number | undefined;
    const scale = 1 / Math.sqrt(scalar ?? d);
    const cap = this.config.attn_logit_softcapping as number | undefined;
    const out = new Float64Array(T * heads * d);
    for (let h = 0; h < heads; h++) {
      const g = Math.floor(h / (heads / kvHeads));
      for (let t = 0; t < T; t++) {
        const first = Math.max(0, t - window + 1);
        const weights: number[] = [];
        for (let s = first; s <= t; s++) {
          let dot = 0;
          for (let c = 0; c < d; c++) dot += q[(t * heads + h) * d + c] * k[(s * kvHeads + g) * d + c];
          dot *= scale;
          weights.push(cap === undefined ? dot : cap * Math.tanh(dot / cap));
        }
        const max = Math.max(...weights);
        const exponentials = weights.map((value) => Math.exp(value - max));
        const total = exponentials.reduce((sum, value) => sum + value, 0);
        exponentials.forEach((value, i) => {
          for (let c = 0; c < d; c++) {
            out[(t * heads + h) * d + c] += (value / total) * v[((first + i) * kvHeads + g) * d + c];
          }
        });
      }
    }
    return this.linear(out, at("o_proj"), this.hidden, heads * d);
  }

  private mlp(at: (name: string) => string, x: Matrix): Matrix {
    const inner = this.number("intermediate_size");
    let gate: Matrix;
    let up: Matrix;
    if (this.tensors.has(`${at("mlp.gate_up_proj")}.weight`)) {
      const both = this.linear(x, at("mlp.gate_up_proj"), 2 * inner, this.hidden);
      gate = columns(both, 2 * inner, 0, inner);
      up = columns(both, 2 * inner, inner, 2 * inner);
    } else {
      gate = this.linear(x, at("mlp.gate_proj"), inner, this.hidden);
      up = this.linear(x, at("mlp.up_proj"), inner, this.hidden);
    }
    const activate = this.isGemma
      ? (z: number) => 0.5 * z * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (z + 0.044715 * z ** 3)))
      : (z: number) => z / (1 + Math.exp(-z));
    const product = gate.map((value, i) => activate(value) * up[i]);
    return this.linear(product, at("mlp.down_proj"), this.hidden, inner);
  }

  /** Angles a position for each pair, and the factor on cos and sin; `undefined` for a layer without rope. */
  private rope(layer: number): { frequencies: number[]; factor: number } | undefined {
    if (this.config.model_type === "smollm3" && (this.config.no_rope_layers as number[])[layer] === 0) return undefined;
    const local = this.config.model_type === "gemma3_text" && this.window(layer) !== Infinity;
    const theta = (local ? this.config.rope_local_base_freq : this.config.rope_theta) as number;
    const part = (this.config.partial_rotary_factor as number | undefined) ?? 1;
    const d = this.headDim * part;
    const plain = Array.from({ length: d / 2 }, (_, i) => 1 / theta ** ((2 * i) / d));
    const scaling = (local ? undefined : this.config.rope_scaling) as
      | Record<string, number & string>
      | undefined
      | null;
    if (!scaling) return { frequencies: plain, factor: 1 };
    const s = scaling.factor;
    if (scaling.rope_type === "linear") return { frequencies: plain.map((f) => f / s), factor: 1 };
    const L = scaling.original_max_position_embeddings;
    if (scaling.rope_type === "llama3") {
      const frequencies = plain.map((f) => {
        const rotations = (L * f) / (2 * Math.PI);
        if (rotations > scaling.high_freq_factor) return f;
        if (rotations < scaling.low_freq_factor) return f / s;
        const share = (rotations - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
        return share * f + ((1 - share) * f) / s;
      });
      return { frequencies, factor: 1 };
    }
    if (scaling.rope_type !== "yarn") throw new Error(`the oracle knows no rope ${scaling.rope_type}`);
    // The pair that makes r rotations over L positions: L · theta^(−2i/d) = 2πr.
    const pairOf = (r: number): number => (d * Math.log(L / (2 * Math.PI * r))) / (2 * Math.log(theta));
    const low = Math.max(0, Math.floor(pairOf(32)));
    const high = Math.min(d - 1, Math.ceil(pairOf(1)));
    const frequencies = plain.map((f, i) => {
      const stretched = Math.min(1, Math.max(0, (i - low) / (high === low ? 0.001 : high - low)));
      return f * (1 - stretched) + (f / s) * stretched;
    });
    return { frequencies, factor: 0.1 * Math.log(s) + 1 };
  }

  /** Tokens a token sees, itself included. */
  private window(layer: number): number {
    const window = this.config.sliding_window as number | undefined | null;
    const types = this.config.layer_types as string[] | undefined;
    if (window === undefined || window === null) return Infinity;
    if (types !== undefined) return types[layer] === "sliding_attention" ? window : Infinity;
    if (this.config.model_type === "qwen2") return Infinity;
    return window;
  }

  /** x / √(mean x² + ε) · w over stretches of `width`. */
  private norm(x: Matrix, name: string, width: number): Matrix {
    const w = this.get(`${name}.weight`);
    const eps = this.number("rms_norm_eps");
    const out = new Float64Array(x.length);
    for (let start = 0; start < x.length; start += width) {
      let square = 0;
      for (let c = 0; c < width; c++) square += x[start + c] ** 2;
      const factor = 1 / Math.sqrt(square / width + eps);
      for (let c = 0; c < width; c++) out[start + c] = x[start + c] * factor * (w[c] + (this.isGemma ? 1 : 0));
    }
    return out;
  }

  private linear(x: Matrix, name: string, rows: number, cols: number): Matrix {
    const out = multiply(x, this.get(`${name}.weight`), rows, cols);
    const bias = this.tensors.get(`${name}.bias`);
    return bias === undefined ? out : out.map((value, i) => value + bias[i % rows]);
  }

  private get(name: string): Matrix {
    const tensor = this.tensors.get(name);
    if (tensor === undefined) throw new Error(`the oracle misses ${name}`);
    return tensor;
  }

  private number(key: string): number {
    return this.config[key] as number;
  }
}

/** x (tokens, cols) · Wᵀ with W (rows, cols) → (tokens, rows) */
function multiply(x: Matrix, w: Matrix, rows: number, cols: number): Matrix {
  const tokens = x.length / cols;
  const out = new Float64Array(tokens * rows);
  for (let t = 0; t < tokens; t++) {
    for (let r = 0; r < rows; r++) {
      let sum = 0;
      for (let c = 0; c < cols; c++) sum += x[t * cols + c] * w[r * cols + c];
      out[t * rows + r] = sum;
    }
  }
  return out;
}

/** Columns [from, to) of x (tokens, width). */
function columns(x: Matrix, width: number, from: number, to: number): Matrix {
  const tokens = x.length / width;
  const out = new Float64Array(tokens * (to - from));
  for (let t = 0; t < tokens; t++) out.set(x.subarray(t * width + from, t * width + to), t * (to - from));
  return out;
}

/** Turn channel pairs (i, i + half) of each head; channels past the rotated part stay. */
function turn(x: Matrix, T: number, heads: number, d: number, rope: { frequencies: number[]; factor: number }): Matrix {
  const out = Float64Array.from(x);
  const half = rope.frequencies.length;
  for (let t = 0; t < T; t++) {
    for (let h = 0; h < heads; h++) {
      const base = (t * heads + h) * d;
      rope.frequencies.forEach((frequency, i) => {
        const cos = Math.cos(t * frequency) * rope.factor;
        const sin = Math.sin(t * frequency) * rope.factor;
        const a = x[base + i];
        const b = x[base + half + i];
        out[base + i] = a * cos - b * sin;
        out[base + half + i] = b * cos + a * sin;
      });
    }
  }
  return out;
}

function readTensors(file: Buffer, into: Map<string, Matrix>): void {
  const length = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.subarray(8, 8 + length).toString()) as Record<
    string,
    { dtype: string; data_offsets: [number, number] }
  >;
  for (const [name, tensor] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const data = file.subarray(8 + length + tensor.data_offsets[0], 8 + length + tensor.data_offsets[1]);
    const count = data.length / (tensor.dtype === "F32" ? 4 : 2);
    into.set(
      name,
      Float64Array.from({ length: count }, (_, i) => {
        if (tensor.dtype === "F32") return data.readFloatLE(4 * i);
        return tensor.dtype === "BF16" ? bfloat16(data.readUInt16LE(2 * i)) : float16(data.readUInt16LE(2 * i));
      }),
    );
  }
}

function bfloat16(bits: number): number {
  const view = new DataView(new ArrayBuffer(4));
  view.setUint32(0, bits * 65536);
  return view.getFloat32(0);
}

function float16(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
