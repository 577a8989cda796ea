/**
 * How text is cut before byte-pair merging: the regular expressions of tokenizer.json and the names llama.cpp knows
 * them by (`tokenizer.ggml.pre`). A name stands for code in llama.cpp, so only splits listed here survive an export
 * exactly.
 * source: llama.cpp src/llama-vocab.cpp `llm_tokenizer_bpe` and convert_hf_to_gguf_update.py
 */
export interface PreTokenizer {
  /** `tokenizer.ggml.pre`. */
  readonly name: string;
  /** The `Split` expression, or undefined where GPT-2's built-in one is used (`ByteLevel` with `use_regex`). */
  readonly pattern: string | undefined;
  /** Every digit is a piece of its own, before anything else. */
  readonly digitsFirst: boolean;
}

/** GPT-2's own expression, which `ByteLevel` with `use_regex` applies. */
export const GPT2_PATTERN = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

const UPPER = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]";
const LOWER = "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]";
const CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const LEAD = "[^\\r\\n\\p{L}\\p{N}]?";
const TAIL = "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const PUNCTUATION = " ?[^\\s\\p{L}\\p{N}]+";

/** The first entry of a name is the one an import rebuilds. */
export const PRE_TOKENIZERS: readonly PreTokenizer[] = [
  { name: "gpt-2", pattern: undefined, digitsFirst: false },
  { name: "gpt-2", pattern: GPT2_PATTERN, digitsFirst: false },
  { name: "smollm", pattern: undefined, digitsFirst: true },
  {
    name: "llama-bpe",
    pattern: `${CONTRACTION}|${LEAD}\\p{L}+|\\p{N}{1,3}|${PUNCTUATION}[\\r\\n]*|${TAIL}`,
    digitsFirst: false,
  },
  {
    name: "qwen2",
    pattern: `${CONTRACTION}|${LEAD}\\p{L}+|\\p{N}|${PUNCTUATION}[\\r\\n]*|${TAIL}`,
    digitsFirst: false,
  },
  {
    name: "tekken",
    pattern: `${LEAD}${UPPER}*${LOWER}+|${LEAD}${UPPER}+${LOWER}*|\\p{N}|${PUNCTUATION}[\\r\\n/]*|${TAIL}`,
    digitsFirst: false,
  },
  {
    name: "gpt-4o",
    pattern: `${LEAD}${UPPER}*${LOWER}+${CONTRACTION}?|${LEAD}${UPPER}+${LOWER}*${CONTRACTION}?|\\p{N}{1,3}|${PUNCTUATION}[\\r\\n/]*|${TAIL}`,
    digitsFirst: false,
  },
];

/** GPT-2's expression with ASCII classes: the same pieces for ASCII text, others elsewhere. */
const GPT2_ASCII_PATTERN = "'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\\sA-Za-z0-9]+|\\s+(?!\\S)|\\s+";

export interface NamedSplit {
  readonly name: string;
  /** What the engine will do otherwise, in words; undefined where it does the same. */
  readonly difference: string | undefined;
}

/** Name the split of a byte-level tokenizer.json. */
export function namePreTokenizer(preTokenizer: unknown): NamedSplit {
  const steps = flatten(preTokenizer);
  const patterns = steps.filter((step) => step.type === "Split").map((step) => splitPattern(step));
  const digitsFirst = steps.some((step) => step.type === "Digits" && step.individual_digits === true);
  // `use_regex` is true where it is not given.
  const usesGpt2 = steps.some((step) => step.type === "ByteLevel" && step.use_regex !== false);
  if (patterns.length <= 1 && (patterns.length === 1) !== usesGpt2) {
    const pattern = patterns[0];
    const known = PRE_TOKENIZERS.find((entry) => entry.pattern === pattern && entry.digitsFirst === digitsFirst);
    if (known !== undefined) return { name: known.name, difference: undefined };
    if (pattern === GPT2_ASCII_PATTERN) {
      return {
        name: "gpt-2",
        difference:
          "the tokenizer splits by ASCII classes, llama.cpp's gpt-2 split by Unicode ones: ASCII text is cut " +
          "alike, other text may not be",
      };
    }
  }
  return {
    name: "gpt-2",
    difference:
      "the tokenizer's split is not one that llama.cpp has a name for; its gpt-2 split is used and may cut text " +
      "differently",
  };
}

interface Step {
  readonly type?: string;
  readonly pattern?: { readonly Regex?: string };
  readonly use_regex?: boolean;
  readonly individual_digits?: boolean;
  readonly pretokenizers?: readonly unknown[];
}

function flatten(preTokenizer: unknown): Step[] {
  if (typeof preTokenizer !== "object" || preTokenizer === null) return [];
  const step = preTokenizer as Step;
  return step.type === "Sequence" && Array.isArray(step.pretokenizers) ? step.pretokenizers.flatMap(flatten) : [step];
}

function splitPattern(step: Step): string {
  return step.pattern?.Regex ?? "";
}
