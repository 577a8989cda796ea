import { PhysariumError } from "../../errors.js";
import type { GgufValue } from "./types.js";

/** A tokenizer.json of SentencePiece's Unigram kind, as far as it is looked at. */
export interface UnigramJson {
  readonly model?: {
    readonly vocab?: unknown;
    readonly unk_id?: number | null;
    readonly byte_fallback?: boolean;
  };
  readonly normalizer?: unknown;
}

interface Normalizer {
  readonly type?: string;
  readonly normalizers?: readonly Normalizer[];
  readonly precompiled_charsmap?: string;
  readonly pattern?: { readonly Regex?: string; readonly String?: string };
  readonly content?: string;
  readonly strip_left?: boolean;
  readonly strip_right?: boolean;
}

export interface DescribedUnigram {
  /** Tokens and their scores (log probabilities), by id. */
  readonly vocab: readonly (readonly [token: string, score: number])[];
  readonly unknownId: number | undefined;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly warnings: readonly string[];
}

/**
 * What llama.cpp's `t5` vocabulary is told: scores, SentencePiece's table of normalizations, and whether rows of spaces
 * become one. Throws `DONOR_TOKENIZER` for normalizers that it does not have.
 * source: llama.cpp src/llama-vocab.cpp `llm_tokenizer_ugm`, conversion/t5.py
 */
export function describeUnigram({ model, normalizer }: UnigramJson): DescribedUnigram {
  const { vocab, unk_id, byte_fallback } = model ?? {};
  const isEntry = (entry: unknown): entry is [string, number] =>
    Array.isArray(entry) && typeof entry[0] === "string" && Number.isFinite(entry[1]);
  if (!Array.isArray(vocab) || !vocab.every(isEntry)) {
    throw new PhysariumError(
      "DONOR_TOKENIZER",
      "tokenizer.json: the vocabulary of a Unigram model is no list of tokens with their scores",
    );
  }
  const metadata = new Map<string, GgufValue>();
  const warnings: string[] = [];
  let [joins, strips] = [false, false];
  for (const step of flat(normalizer as Normalizer | null | undefined)) {
    if (step.type === "Precompiled") {
      const table = [...Buffer.from(step.precompiled_charsmap ?? "", "base64")];
      metadata.set("tokenizer.ggml.precompiled_charsmap", { type: "array", of: "u8", values: table });
    } else if (step.type === "Replace" && step.pattern?.Regex === " {2,}" && /^[ \u2581]$/.test(step.content ?? "")) {
      joins = true;
    } else if (step.type === "Strip" && step.strip_right === true) {
      strips = true;
    } else if (step.type === "NFKC" || step.type === "NFC") {
      warnings.push(`llama.cpp does not normalize by ${step.type}: text that it changes gets other tokens there`);
    } else if (step.type !== "Prepend") {
      throw new PhysariumError(
        "DONOR_TOKENIZER",
        `tokenizer.json: normalizer ${JSON.stringify(step.type)} of a Unigram model is not known to llama.cpp`,
        { normalizer: step.type },
      );
    }
  }
  metadata.set("tokenizer.ggml.remove_extra_whitespaces", { type: "bool", value: joins });
  if (joins && !strips) warnings.push("llama.cpp drops spaces at the end of a text, the donor's tokenizer keeps one");
  if (byte_fallback === true) {
    warnings.push("llama.cpp's t5 vocabulary spells no unknown character by its bytes: it becomes the unknown token");
  }
  return { vocab, unknownId: typeof unk_id === "number" ? unk_id : undefined, metadata, warnings };
}

function flat(normalizer: Normalizer | null | undefined): Normalizer[] {
  if (normalizer === null || normalizer === undefined) return [];
  return normalizer.type === "Sequence" ? (normalizer.normalizers ?? []).flatMap(flat) : [normalizer];
}
