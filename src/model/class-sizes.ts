/**
 * The sizes that each class of the reference takes where config.json leaves them out: vocabulary, hidden state, layers,
 * heads, neurons. source: `to_dict()` of the configurations of transformers 5.24; `test/fixtures/class-defaults.json`
 * has all of their fields, and `test/model/class-defaults.test.ts` leaves out one after another.
 */
const SIZES: Readonly<Record<string, readonly number[]>> = {
  apertus: [131072, 4096, 32, 32, 14336],
  arcee: [32000, 2560, 32, 32, 18432],
  bloom: [250880, 64, 2, 8],
  cohere: [256000, 8192, 40, 64, 22528],
  cohere2: [256000, 8192, 40, 64, 22528],
  deepseek_v3: [129280, 7168, 61, 128, 18432],
  ernie4_5: [103424, 1024, 18, 16, 3072],
  exaone4: [102400, 4096, 32, 32, 16384],
  falcon: [65024, 4544, 32, 71],
  gemma: [256000, 3072, 28, 16, 24576],
  gemma2: [256000, 2304, 26, 8, 9216],
  gemma3_text: [262208, 2304, 26, 8, 9216],
  gemma3n_text: [262400, 2048, 35, 8],
  gemma4_text: [262144, 2304, 30, 8, 9216],
  glm: [151552, 4096, 40, 32, 13696],
  glm4: [151552, 4096, 40, 32, 13696],
  gpt2: [50257, 768, 12, 12],
  gpt_bigcode: [50257, 768, 12, 12],
  gpt_neox: [50432, 6144, 44, 64, 24576],
  gpt_oss: [201088, 2880, 36, 64, 2880],
  granite: [32000, 4096, 32, 32, 11008],
  granitemoe: [32000, 4096, 32, 32, 11008],
  helium: [48000, 2560, 24, 20, 7040],
  hunyuan_v1_dense: [290943, 4096, 32, 32, 11008],
  lfm2: [65536, 2560, 32, 32, 12288],
  llama: [32000, 4096, 32, 32, 11008],
  llama4_text: [202048, 5120, 48, 40, 8192],
  ministral: [32000, 4096, 32, 32, 14336],
  ministral3: [131072, 4096, 34, 32, 14336],
  mistral: [32000, 4096, 32, 32, 14336],
  mixtral: [32000, 4096, 32, 32, 14336],
  nemotron: [256000, 6144, 32, 48, 24576],
  olmo: [50304, 4096, 32, 32, 11008],
  olmo2: [50304, 4096, 32, 32, 11008],
  olmo3: [50304, 4096, 32, 32, 11008],
  opt: [50272, 768, 12, 12, 3072],
  persimmon: [262144, 4096, 36, 64, 16384],
  phi: [51200, 2048, 24, 32, 8192],
  phi3: [32064, 3072, 32, 32, 8192],
  phimoe: [32064, 4096, 32, 32, 6400],
  qwen2: [151936, 4096, 32, 32, 22016],
  qwen2_moe: [151936, 2048, 24, 16, 5632],
  qwen3: [151936, 4096, 32, 32, 22016],
  qwen3_5_moe_text: [248320, 2048, 40, 16],
  qwen3_5_text: [248320, 4096, 32, 16, 12288],
  qwen3_moe: [151936, 2048, 24, 32, 6144],
  qwen3_next: [151936, 2048, 48, 16, 5632],
  seed_oss: [155136, 4096, 64, 80, 27648],
  smollm3: [128256, 2048, 36, 16, 11008],
  stablelm: [50304, 2560, 32, 32, 6912],
  starcoder2: [49152, 3072, 30, 24, 12288],
};

const FIELDS = ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"] as const;

/** By field of config.json; nothing for a model type that is not known. */
export function classSizes(modelType: string): Readonly<Record<string, number>> {
  const sizes = Object.hasOwn(SIZES, modelType) ? SIZES[modelType] : [];
  return Object.fromEntries(sizes.map((size, at) => [FIELDS[at], size]));
}
