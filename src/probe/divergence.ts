import type { DivergenceRecord, KlHistogram, NllPoint } from "../record/quality.js";

/** One number for each prediction, in the order of the text. */
export interface Trace {
  readonly nll: Float64Array;
  readonly top: Int32Array;
}

/**
 * Mean and standard error of the mean (sample variance over n), in f64 with two passes. One number has no error: NaN
 * becomes 0.
 */
export function meanOf(values: Float64Array): { mean: number; stderr: number } {
  const mean = sum(values) / values.length;
  let squares = 0;
  for (const value of values) squares += (value - mean) ** 2;
  return { mean, stderr: values.length < 2 ? 0 : Math.sqrt(squares / (values.length - 1) / values.length) };
}

/** Compensated (Neumaier), so that the order and size of a text do not show in the digits. */
export function sum(values: Iterable<number>): number {
  let total = 0;
  let lost = 0;
  for (const value of values) {
    const next = total + value;
    lost += Math.abs(total) >= Math.abs(value) ? total - next + value : value - next + total;
    total = next;
  }
  return total + lost;
}

/** The value at share `q` of sorted values, interpolated between neighbours as llama.cpp's `percentile` does. */
export function quantile(sorted: Float64Array, q: number): number {
  const position = q * (sorted.length - 1);
  const below = Math.floor(position);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (position - below) * (sorted[above] - sorted[below]);
}

/**
 * The table of llama.cpp's `--kl-divergence`. source: ggml-org/llama.cpp tools/perplexity/perplexity.cpp
 * `kl_divergence`
 */
export function divergenceOf(donor: Trace, model: Trace, kl: Float64Array): DivergenceRecord {
  const n = kl.length;
  const klMean = meanOf(kl);
  const sortedKl = Float64Array.from(kl).sort();
  const ratio = meanOf(model.nll.map((nll, at) => nll - donor.nll[at]));
  const change = model.nll.map((nll, at) => Math.exp(-nll) - Math.exp(-donor.nll[at]));
  const sortedChange = Float64Array.from(change).sort();
  const sameTop = sum(model.top.map((top, at) => Number(top === donor.top[at]))) / n;
  const at = (q: number) => quantile(sortedChange, q);
  return {
    kl_mean: klMean.mean,
    kl_mean_stderr: klMean.stderr,
    kl_median: quantile(sortedKl, 0.5),
    kl_p90: quantile(sortedKl, 0.9),
    kl_p99: quantile(sortedKl, 0.99),
    kl_p999: quantile(sortedKl, 0.999),
    kl_max: sortedKl[n - 1],
    kl_min: sortedKl[0],
    perplexity_ratio: Math.exp(ratio.mean),
    ln_ratio: ratio.mean,
    ln_ratio_stderr: ratio.stderr,
    same_top: sameTop,
    same_top_stderr: n < 2 ? 0 : Math.sqrt((sameTop * (1 - sameTop)) / (n - 1)),
    delta_p_mean: meanOf(change).mean,
    delta_p_rms: Math.sqrt(sum(change.map((value) => value * value)) / n),
    delta_p_quantiles: {
      min: sortedChange[0],
      p0_1: at(0.001),
      p1: at(0.01),
      p5: at(0.05),
      p10: at(0.1),
      p25: at(0.25),
      median: at(0.5),
      p75: at(0.75),
      p90: at(0.9),
      p95: at(0.95),
      p99: at(0.99),
      p99_9: at(0.999),
      max: sortedChange[n - 1],
    },
  };
}

/** A quarter of a decade a bin, from 10⁻⁶ (below it is float noise) to 10² nats. */
const KL_EDGES = Array.from({ length: 33 }, (_, edge) => -6 + edge / 4);

export function klHistogramOf(kl: Float64Array): KlHistogram {
  const counts: number[] = new Array(KL_EDGES.length - 1).fill(0);
  let underflow = 0;
  let overflow = 0;
  for (const value of kl) {
    const bin = Math.floor((Math.log10(Math.max(value, 1e-300)) - KL_EDGES[0]) * 4);
    if (bin < 0) underflow++;
    else if (bin >= counts.length) overflow++;
    else counts[bin]++;
  }
  return { log10_edges: KL_EDGES, counts, underflow, overflow };
}

const MAX_POINTS = 400;

/** Mean NLL along the text, in at most 400 stretches of equal length (to one token). */
export function nllCurveOf(model: Float64Array, donor: Float64Array | undefined): NllPoint[] {
  const points = Math.min(MAX_POINTS, model.length);
  return Array.from({ length: points }, (_, point) => {
    const start = Math.floor((point * model.length) / points);
    const end = Math.floor(((point + 1) * model.length) / points);
    const mean = (values: Float64Array) => sum(values.subarray(start, end)) / (end - start);
    return {
      token_start: start,
      token_end: end,
      nll_model: mean(model),
      nll_donor: donor === undefined ? null : mean(donor),
    };
  });
}
