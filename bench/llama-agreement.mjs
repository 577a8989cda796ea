// Does llama.cpp compute what we compute? Each donor is exported to GGUF; both engines then get the same tokens.
//
//   node bench/llama-agreement.mjs [--tokens 4096] [--only loam,stories260K] [--types f32,f16,…]
//
// perplexity "ours" is our forward pass over the donor, or for quantised types over what the file holds (imported back
// as F32). Exit 1 where F32, F16 or BF16 differ by more than 0.2 % (stories260K F32: 0.1 %), where tokens differ, or
// where F32's greedy text does.
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { exportGguf } from "../dist/export/gguf/export.js";
import { importGguf } from "../dist/export/gguf/import.js";
import { layoutTensors } from "../dist/export/gguf/layout.js";
import { parseModelConfig } from "../dist/export/model-config.js";
import { runModels } from "../dist/probe/evaluate.js";
import { LayerRunner } from "../dist/probe/forward/layer-runner.js";
import { generateTokens } from "../dist/probe/generate.js";
import { TextTokenizer } from "../dist/probe/text/tokenizer.js";
import { totalMatrices } from "../dist/report/export-summary.js";
import { synthesize } from "../dist/synth/synth.js";
import { openLlama, openModel } from "./llama-engine.mjs";

const { values } = parseArgs({
  options: {
    tokens: { type: "string", default: "4096" },
    only: { type: "string" },
    types: { type: "string", default: "f32,f16,bf16,q8_0,q6_k,q4_k,q4_0" },
  },
});
const root = fileURLToPath(new URL("..", import.meta.url));
const shared = join(root, "../shared");
const scratch = mkdtempSync(join(tmpdir(), "physarium-agreement-"));

const llama = await openLlama();
if (llama === undefined) {
  console.log(
    "skipped: node-llama-cpp is not installed; the command that installs it stands in bench/llama-engine.mjs",
  );
  process.exit(0);
}

/** A byte-level tokenizer without merges, for donors that have none: token 255 (no byte of UTF-8) is the end. */
function writeByteTokenizer(folder) {
  const isPrintable = (byte) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  let next = 256;
  const characters = Array.from({ length: 256 }, (_, byte) => String.fromCharCode(isPrintable(byte) ? byte : next++));
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: true };
  const end = {
    id: 255,
    content: "<|end|>",
    special: true,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
  };
  const vocab = Object.fromEntries(characters.slice(0, 255).map((character, id) => [character, id]));
  const model = {
    type: "BPE",
    dropout: null,
    unk_token: null,
    fuse_unk: false,
    byte_fallback: false,
    vocab,
    merges: [],
  };
  const json = {
    version: "1.0",
    added_tokens: [end],
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: byteLevel,
    model,
  };
  writeFileSync(join(folder, "tokenizer.json"), JSON.stringify(json));
  writeFileSync(join(folder, "tokenizer_config.json"), JSON.stringify({ eos_token: "<|end|>", add_bos_token: false }));
}

/** A donor from ../shared, with a tokenizer if it has none. */
function fromShared(name) {
  const source = join(shared, "donors", name);
  if (!existsSync(source)) return undefined;
  if (existsSync(join(source, "tokenizer.json"))) return source;
  const folder = join(scratch, name);
  cpSync(source, folder, { recursive: true });
  writeByteTokenizer(folder);
  return folder;
}

/** Random weights wide enough that the logits are far from even. */
async function synthetic(name, config) {
  const from = join(scratch, `${name}-config`);
  const folder = join(scratch, name);
  cpSync(join(root, "examples/donors/loam/config.json"), join(from, "config.json"));
  const common = {
    vocab_size: 256,
    hidden_size: 256,
    intermediate_size: 512,
    num_hidden_layers: 3,
    num_attention_heads: 8,
    num_key_value_heads: 2,
    max_position_embeddings: 256,
    rms_norm_eps: 1e-6,
    rope_theta: 10000,
    hidden_act: "silu",
    tie_word_embeddings: false,
    torch_dtype: "bfloat16",
    initializer_range: 0.08,
  };
  const whole = JSON.stringify({ ...common, ...config });
  writeFileSync(join(from, "config.json"), whole);
  const shapes = layoutTensors(parseModelConfig(whole, "config.json")).filter((tensor) => !tensor.optional);
  const named = Object.fromEntries(shapes.map(({ name: tensor, shape }) => [tensor, shape]));
  writeFileSync(join(from, "tensor_shapes.json"), JSON.stringify(named));
  await synthesize(from, folder, { seed: "1", distribution: "gaussian", scale: 1, overwrite: false });
  writeByteTokenizer(folder);
  return folder;
}

// llama.cpp looks GELU up in a table of F16 values; narrower weights keep that error from growing layer by layer.
const GEMMA = {
  initializer_range: 0.03,
  head_dim: 64,
  query_pre_attn_scalar: 64,
  sliding_window: 48,
  hidden_activation: "gelu_pytorch_tanh",
  hidden_act: "gelu_pytorch_tanh",
  tie_word_embeddings: true,
};
const llama3Scaling = {
  rope_type: "llama3",
  factor: 8,
  low_freq_factor: 1,
  high_freq_factor: 4,
  original_max_position_embeddings: 64,
};
const donors = {
  loam: () => join(root, "examples/donors/loam"),
  stories260K: () => fromShared("stories260K"),
  tiny_llama3: () => fromShared("tiny_llama3"),
  tiny_qwen3: () => fromShared("tiny_qwen3"),
  "qwen3 (synthetic)": () =>
    synthetic("qwen3", { model_type: "qwen3", architectures: ["Qwen3ForCausalLM"], head_dim: 64 }),
  "llama3 (synthetic)": () =>
    synthetic("llama3", { model_type: "llama", architectures: ["LlamaForCausalLM"], rope_scaling: llama3Scaling }),
  "llama linear (synthetic)": () =>
    synthetic("linear", {
      model_type: "llama",
      architectures: ["LlamaForCausalLM"],
      rope_scaling: { rope_type: "linear", factor: 4 },
    }),
  "phi3 (synthetic)": () =>
    // The folder's name goes into general.name, and of a model called phi3 llama.cpp expects that vocabulary's special
    // tokens.
    synthetic("fused", { model_type: "phi3", architectures: ["Phi3ForCausalLM"] }),
};

Object.assign(donors, {
  "qwen2 yarn (synthetic)": () =>
    synthetic("yarn", {
      model_type: "qwen2",
      rope_scaling: { rope_type: "yarn", factor: 4, original_max_position_embeddings: 64 },
    }),
  "smollm3 (synthetic)": () =>
    synthetic("smollm3", { model_type: "smollm3", num_hidden_layers: 5, tie_word_embeddings: true }),
  "gemma (synthetic)": () => synthetic("gemma1", { ...GEMMA, model_type: "gemma", sliding_window: null }),
  "gemma2 (synthetic)": () =>
    synthetic("gemma2", { ...GEMMA, model_type: "gemma2", attn_logit_softcapping: 50, final_logit_softcapping: 30 }),
  "gemma3 (synthetic)": () =>
    synthetic("gemma3", {
      ...GEMMA,
      model_type: "gemma3_text",
      num_hidden_layers: 7,
      rope_theta: 1000000,
      rope_local_base_freq: 10000,
    }),
});

/** A real vocabulary on a small body: what counts here is that both cut text into the same ids. */
async function withTokenizer(name, tokenizer, config) {
  const from = join(shared, "tokenizers", tokenizer);
  if (!existsSync(from)) return undefined;
  const folder = await synthetic(name, config);
  for (const file of ["tokenizer.json", "tokenizer_config.json"]) cpSync(join(from, file), join(folder, file));
  return folder;
}
donors["Qwen2.5's tokenizer (synthetic)"] = () =>
  withTokenizer("qwen25", "qwen2.5", {
    model_type: "qwen2",
    vocab_size: 152064,
    hidden_size: 64,
    intermediate_size: 64,
    num_hidden_layers: 1,
    tie_word_embeddings: true,
  });

const textPath = existsSync(join(shared, "text/tinystories_dev.txt"))
  ? join(shared, "text/tinystories_dev.txt")
  : join(root, "README.md");
const text = readFileSync(textPath, "utf8");
// ASCII for donors whose own split is ASCII's, all kinds of letters for the rest.
const ascii = text
  .slice(0, 20_000)
  .replaceAll("<|endoftext|>", "")
  .replace(/[^\x20-\x7e\n]/g, "");
const wikiPath = join(shared, "text/wiki.test.raw");
const wiki = existsSync(wikiPath) ? readFileSync(wikiPath, "utf8").slice(0, 100_000).normalize("NFC") : "";
const unicode = "Zażółć gęślą jaźń, naïve café, 東京 2026年, Ελληνικά, emoji 🐝🧪, ½ and ²\t\r\n";
const WINDOW = 128;
const GREEDY = 64;
const BITWISE = new Set(["f32", "f16", "bf16"]);

/** Sequences of one window each: BOS where the model has one, then whole stories cut short. */
async function sequencesOf(tokenizer, wanted) {
  const bos = tokenizer.bos === undefined || tokenizer.config.add_bos_token === false ? [] : [tokenizer.bos.id];
  const sequences = [];
  let count = 0;
  for (const story of text.split("<|endoftext|>")) {
    const ids = [...bos, ...(await tokenizer.encode(story.trim()))].slice(0, WINDOW);
    if (ids.length < 16) continue;
    sequences.push({ ids, scoreFrom: 1 });
    count += ids.length - 1;
    if (count >= wanted) break;
  }
  return { sequences, tokens: count };
}

async function ours(folder, { sequences, tokens }) {
  const { traces } = await runModels([folder], { sequences, record: { tokens } }, { threads: 1 });
  return Math.exp(traces[0].nll.reduce((sum, nll) => sum + nll, 0) / tokens);
}

async function ourGreedy(folder, ids) {
  const runner = await LayerRunner.open(folder, { threads: 1 });
  const found = [];
  for await (const { id } of generateTokens(runner, ids, { maxTokens: GREEDY })) found.push(id);
  await runner.close();
  return found;
}

/** The prompt of the golden text that came with a donor. */
function goldenPrompt(donor, name) {
  const path = name === "loam" ? join(root, "test/fixtures/loam/golden.json") : join(donor, "golden.json");
  return existsSync(path) ? [JSON.parse(readFileSync(path, "utf8")).ids] : [];
}

console.log(`text ${textPath.split("/").at(-1)}, windows of ${WINDOW} tokens, node-llama-cpp 3.22.1 on one thread\n`);
console.log("| donor | type | bytes | tokens | ids | ours | llama.cpp | difference | greedy | error of matrices |");
console.log("|---|---|---|---|---|---|---|---|---|---|");
let failed = false;
try {
  for (const [name, open] of Object.entries(donors)) {
    if (values.only !== undefined && !values.only.split(",").some((part) => name.startsWith(part))) continue;
    const donor = await open();
    if (donor === undefined) {
      console.log(`| ${name} | skipped: ../shared is not there |`);
      continue;
    }
    const tokenizer = await TextTokenizer.open(donor);
    const prepared = await sequencesOf(tokenizer, Number(values.tokens));
    const sample = name === "loam" ? ascii : `${ascii}\n\n${unicode}${wiki}`;
    const dense = await ours(donor, prepared);
    // The prompt that the donor's golden text continues, and one more.
    const prompts = [...goldenPrompt(donor, name), prepared.sequences[0].ids.slice(0, 12)];
    const continued = [];
    for (const prompt of prompts) continued.push(await ourGreedy(donor, prompt));
    for (const type of values.types.split(",")) {
      const path = join(scratch, `${name.replace(/\W/g, "")}-${type}.gguf`);
      const result = await exportGguf(donor, path, { type: type.toUpperCase() });
      let expected = dense;
      if (!BITWISE.has(type)) {
        const imported = `${path}.folder`;
        await importGguf(path, imported, { dtype: "F32" });
        expected = await ours(imported, prepared);
        rmSync(imported, { recursive: true });
      }
      const engine = await openModel(llama, path, WINDOW);
      let sum = 0;
      for (const { ids } of prepared.sequences) for (const nll of await engine.nll(ids)) sum += nll;
      const theirs = Math.exp(sum / prepared.tokens);
      const sameIds = JSON.stringify(engine.tokenize(sample)) === JSON.stringify(await tokenizer.encode(sample));
      const same = [];
      for (const [at, prompt] of prompts.entries()) {
        const theirTokens = await engine.greedy(prompt, continued[at].length);
        const firstOther = continued[at].findIndex((id, place) => id !== theirTokens[place]);
        same.push(firstOther === -1 ? continued[at].length : firstOther);
      }
      await engine.close();
      const isSame = same.every((count, at) => count === continued[at].length);
      const difference = 100 * (theirs / expected - 1);
      const limit = name === "stories260K" && type === "f32" ? 0.1 : 0.2;
      const isWrong =
        (BITWISE.has(type) && !(Math.abs(difference) <= limit)) || !sameIds || (type === "f32" && !isSame);
      failed ||= isWrong;
      const { relativeError } = totalMatrices(result);
      console.log(
        `| ${name} | ${type} | ${statSync(path).size} | ${prepared.tokens} | ${sameIds ? "same" : "OTHER"} | ${expected.toFixed(4)} | ${theirs.toFixed(4)} | ${difference >= 0 ? "+" : ""}${difference.toFixed(4)} % | ${same.join(", ")} of ${GREEDY} | ${relativeError === 0 ? "0" : relativeError.toExponential(2)} |${isWrong ? " <-- TOO FAR" : ""}`,
      );
      rmSync(path);
    }
  }
} finally {
  rmSync(scratch, { recursive: true });
}
console.log(failed ? "\nDISAGREEMENT" : "\nagreement");
// The engine keeps threads alive.
process.exit(failed ? 1 : 0);
