/**
 * What surgery cost the model: the numbers of one `eval`, as plain JSON for `surgery.json` (field `quality`), REPORT.md
 * and report.html.
 *
 * Natural logarithms throughout; `nll` is in nats a token. A number that does not exist (no donor to compare with, no
 * bytes counted) is absent or `null`, never 0. Nothing here is rounded.
 */
export interface QualitySection {
  /** One or two sentences in plain words, made of the numbers below; the report prints them on top. */
  readonly summary: string;
  readonly text: TextSource;
  readonly protocol: ProtocolRecord;
  readonly engine: EngineRecord;
  /** The operated model, the one the report is about. */
  readonly model: ModelQuality;
  /** The donor on the same tokens; `null` where `eval` ran without `--against`. */
  readonly donor: ModelQuality | null;
  /** `null` exactly where `donor` is. */
  readonly divergence: DivergenceRecord | null;
  /** Mean NLL along the text, at most 400 points, in the order of the text. */
  readonly nll_curve: readonly NllPoint[];
  /** How the places of the text spread over KL divergence; `null` where `donor` is. */
  readonly kl_histogram: KlHistogram | null;
  /** The places of the largest KL divergence, largest first; absent where `donor` is `null`. */
  readonly changed_tokens?: readonly ChangedToken[];
  /** With `eval --layers`: what each layer costs alone. */
  readonly layer_damage?: readonly LayerDamageRecord[];
}

/** A place of the text where the models differ. */
export interface ChangedToken {
  /** Position among the predictions, in the order of the text. */
  readonly position: number;
  /** The text before it, a dozen tokens of it. */
  readonly before: string;
  /** The token that stands there. */
  readonly token: string;
  /** KL(donor ‖ model), nats. */
  readonly kl: number;
  /** What each model gave the token that stands there, 0–1. */
  readonly p_donor: number;
  readonly p_model: number;
  /** Each model's most likely token. */
  readonly top_donor: string;
  readonly top_model: string;
}

/** Mean KL divergence (nats a token) of the donor with one layer of the operated model put in. */
export interface LayerDamageRecord {
  readonly layer: number;
  readonly kl_mean: number;
  /** Predictions it is the mean of. */
  readonly tokens: number;
}

export interface TextSource {
  /** File name without its folder. */
  readonly name: string;
  readonly bytes: number;
  /** SHA-256 of the file's bytes, hexadecimal. */
  readonly sha256: string;
}

/** How the text became predictions; every field that changes a perplexity is here. */
export interface ProtocolRecord {
  /**
   * `wikitext`: one stream, windows side by side. `strided`: overlapping windows (`--stride`). `documents`: each
   * document alone.
   */
  readonly name: "wikitext" | "strided" | "documents";
  /** Tokens a window. */
  readonly window: number;
  /** Tokens between the starts of two windows; equal to `window` unless strided. */
  readonly stride: number;
  readonly windows: number;
  /** Predictions counted: the denominator of `mean_nll`. */
  readonly tokens: number;
  /** The token that opens each window or document, or `null` for none. */
  readonly bos: string | null;
  /** With `--bos each` every window begins with `bos`; otherwise a stream does once. */
  readonly bos_each?: boolean;
  /** How line ends were read, where the text had a carriage return: `\r\n` and `\r` as `\n`, or as they are. */
  readonly newlines?: "universal" | "keep";
  /** What joined the rows (`wikitext --rows`), or `null` where the file was one stream as it stands. */
  readonly joiner: string | null;
  /** What separated documents, or `null` outside the `documents` protocol. */
  readonly separator: string | null;
  /** Documents read; 1 outside the `documents` protocol. */
  readonly documents: number;
}

export interface EngineRecord {
  /** `onnxruntime-node` and its version. */
  readonly name: string;
  readonly version: string;
  /** `cpu`, `webgpu` or `cuda`. */
  readonly device: string;
  /** Dtype of the stored weights, as in the files. */
  readonly weights_dtype: string;
  /** Dtype of the arithmetic. */
  readonly compute_dtype: string;
  /** Threads of the matrix products. */
  readonly threads: number;
  readonly seconds: number;
  /** Tokens run through each model, per second of the whole forward pass. */
  readonly tokens_per_second: number;
  readonly peak_rss_bytes: number;
}

export interface ModelQuality {
  /** The folder's name, or the hub's for a cached model. */
  readonly name: string;
  /** exp(mean_nll). */
  readonly perplexity: number;
  /** Nats a token. */
  readonly mean_nll: number;
  /**
   * Standard error of `perplexity`: perplexity × the standard error of `mean_nll` (delta method, tokens as
   * independent).
   */
  readonly stderr: number;
  readonly mean_nll_stderr: number;
  /** NLL in bits over the UTF-8 bytes of the tokens predicted; `null` where a token cannot be mapped to bytes. */
  readonly bits_per_byte: number | null;
}

/**
 * The operated model against the donor on the same places of the text; KL is donor ‖ model in nats, as llama.cpp's
 * `--kl-divergence` prints it, so the table compares with tables of quantised models.
 */
export interface DivergenceRecord {
  readonly kl_mean: number;
  readonly kl_mean_stderr: number;
  readonly kl_median: number;
  readonly kl_p90: number;
  readonly kl_p99: number;
  readonly kl_p999: number;
  readonly kl_max: number;
  readonly kl_min: number;
  /** model / donor. */
  readonly perplexity_ratio: number;
  /** ln(perplexity_ratio) = mean of (nll_model − nll_donor), and its standard error. */
  readonly ln_ratio: number;
  readonly ln_ratio_stderr: number;
  /** Share (0–1) of places where both models' most likely token is the same, and its standard error. */
  readonly same_top: number;
  readonly same_top_stderr: number;
  /** Change of the true token's probability (model − donor), as fractions −1…1. */
  readonly delta_p_mean: number;
  readonly delta_p_rms: number;
  readonly delta_p_quantiles: {
    readonly min: number;
    readonly p0_1: number;
    readonly p1: number;
    readonly p5: number;
    readonly p10: number;
    readonly p25: number;
    readonly median: number;
    readonly p75: number;
    readonly p90: number;
    readonly p95: number;
    readonly p99: number;
    readonly p99_9: number;
    readonly max: number;
  };
}

/** Mean over the predictions `[token_start, token_end)`, counted in the order of the text. */
export interface NllPoint {
  readonly token_start: number;
  readonly token_end: number;
  readonly nll_model: number;
  /** `null` without a donor. */
  readonly nll_donor: number | null;
}

/**
 * Bins of equal width in log10: bin i counts the places with `10^log10_edges[i] ≤ KL < 10^log10_edges[i+1]`; below the
 * first and above the last edge the places are counted apart. `underflow + sum(counts) + overflow` = tokens of the
 * protocol.
 */
export interface KlHistogram {
  /** counts.length + 1 edges, ascending. */
  readonly log10_edges: readonly number[];
  readonly counts: readonly number[];
  readonly underflow: number;
  readonly overflow: number;
}
