import type { ModelNumbers, QualityNumbers, ReportInput } from "../record/report-input.js";
import { byteSize, count, counted, duration, fixed, percent, significant } from "./number-words.js";
import {
  type Block,
  code,
  command,
  foreign,
  paragraph,
  type Section,
  say,
  shellQuote,
  strong,
  type Table,
  type Text,
} from "./report-text.js";

/** What surgery cost the model, or that nobody has looked. */
export function qualitySection(report: ReportInput): Section {
  const { quality } = report;
  if (quality == null) {
    return {
      id: "quality",
      title: "Inference quality",
      blocks: [
        paragraph(
          say`${strong("Untested.")} No forward pass was run on this output. To measure perplexity and the distance from
            the donor on a text of your choice: ${evalCommand(report)}`,
        ),
      ],
    };
  }
  const { model, donor, divergence, protocol, engine, text } = quality;
  const blocks: Block[] = [paragraph(qualitySentence(quality))];
  if (isCalibrationText(report)) {
    blocks.push(
      paragraph(
        say`${strong("This is the text the operation was calibrated on.")} A model fits what it was healed on: another
          text will show a higher cost. Measure on one that it has not seen.`,
      ),
    );
  }
  const row = (name: string, of: (m: ModelNumbers) => string): Text[] => [
    say`${name}`,
    say`${of(model)}`,
    say`${donor === null ? "–" : of(donor)}`,
  ];
  blocks.push({
    kind: "table",
    caption: "Perplexity",
    columns: [{ name: "Measure" }, { name: "Operated", numeric: true }, { name: "Donor", numeric: true }],
    rows: [
      row("Perplexity", (m) => `${fixed(m.perplexity, 3)} ± ${fixed(m.stderr, 3)}`),
      row("Mean NLL, nats a token", (m) => fixed(m.mean_nll, 4)),
      row("Bits a byte", (m) => fixed(m.bits_per_byte, 4)),
    ],
    note: say`± is one standard error, with tokens taken as independent.`,
  });
  if (divergence !== null) {
    blocks.push({
      kind: "table",
      caption: "Distance from the donor",
      columns: [{ name: "Measure" }, { name: "Value", numeric: true }],
      rows: [
        [say`Perplexity over the donor's`, say`${fixed(divergence.perplexity_ratio, 4)}`],
        [say`Its logarithm`, say`${fixed(divergence.ln_ratio, 4)} ± ${fixed(divergence.ln_ratio_stderr, 4)}`],
        [
          say`KL divergence, mean (nats a token)`,
          say`${significant(divergence.kl_mean)} ± ${significant(divergence.kl_mean_stderr, 2)}`,
        ],
        [say`KL divergence, median`, say`${significant(divergence.kl_median)}`],
        [say`KL divergence, 90th percentile`, say`${significant(divergence.kl_p90)}`],
        [say`KL divergence, 99th percentile`, say`${significant(divergence.kl_p99)}`],
        [say`KL divergence, most`, say`${significant(divergence.kl_max)}`],
        [say`Same most likely token`, say`${percent(divergence.same_top)} of ${counted(protocol.tokens, "place")}`],
        [say`Change of the true token's probability, RMS`, say`${percent(divergence.delta_p_rms)}`],
      ],
    });
  }
  if (quality.nll_curve.length > 1) {
    blocks.push({
      kind: "picture",
      picture: "nll",
      title: "Loss along the text",
      caption: say`Mean negative log-likelihood along the text, from its first token to its
        last${donor === null ? "." : "; below, what lies between them, which is what surgery cost."}`,
    });
  }
  if (quality.kl_histogram !== null && divergence !== null) {
    blocks.push({
      kind: "picture",
      picture: "divergence",
      title: "How far each prediction moved",
      caption: say`Places of the text by their KL divergence from the donor, on a logarithmic axis.`,
    });
    blocks.push(histogramTable(quality.kl_histogram));
  }
  blocks.push(
    paragraph(
      say`Text: ${code(text.name)}, ${byteSize(text.bytes)}, SHA-256 ${code(text.sha256)}. Protocol
        ${foreign(protocol.name)}: ${counted(protocol.windows, "window")} of ${count(protocol.window)} tokens, stride
        ${count(protocol.stride)}, ${counted(protocol.tokens, "prediction")} counted. Engine: ${foreign(engine.name)}
        ${foreign(engine.version)} on ${foreign(engine.device)}, weights ${foreign(engine.weights_dtype)}, arithmetic
        ${foreign(engine.compute_dtype)}; ${duration(engine.seconds)}, ${count(engine.tokens_per_second)} tokens a
        second.`,
    ),
  );
  return { id: "quality", title: "Inference quality", blocks };
}

/**
 * What surgery cost, in one sentence made of the numbers. It does not repeat how much was pruned: such a rate would
 * need its denominator, and stands where it has it.
 */
export function qualitySentence({ text, protocol, model, donor, divergence }: QualityNumbers): Text {
  const where = say`On ${code(text.name)} (${counted(protocol.tokens, "predicted token")})`;
  if (donor === null || divergence === null) {
    return say`${where} the operated model has a perplexity of ${strong(fixed(model.perplexity, 2))}; the donor was not
      measured beside it, so this does not say what surgery cost.`;
  }
  const change = divergence.perplexity_ratio - 1;
  const moved = change < 0 ? "lowered" : "raised";
  return say`${where} surgery ${moved} perplexity by ${strong(percent(Math.abs(change)))} of the donor's, from
    ${fixed(donor.perplexity, 2)} to ${fixed(model.perplexity, 2)}; both models put the same token first at
    ${percent(divergence.same_top)} of the places.`;
}

/** Whether quality was measured on the very text that drove the operation. */
export function isCalibrationText({ quality, activation }: ReportInput): boolean {
  const calibrated = activation?.calibration?.sha256;
  return calibrated != null && calibrated === quality?.text.sha256;
}

type Histogram = NonNullable<QualityNumbers["kl_histogram"]>;

/** The bins from the first to the last that holds anything: the probe's span every case, a text's few of them. */
export function withoutEmptyEnds({ log10_edges, counts, underflow, overflow }: Histogram): Histogram {
  const first = counts.findIndex((n) => n > 0);
  if (first < 0) return { log10_edges, counts, underflow, overflow };
  const last = counts.findLastIndex((n) => n > 0);
  return {
    log10_edges: log10_edges.slice(first, last + 2),
    counts: counts.slice(first, last + 1),
    underflow,
    overflow,
  };
}

function histogramTable(whole: Histogram): Table {
  const histogram = withoutEmptyEnds(whole);
  const edge = (i: number) => significant(10 ** histogram.log10_edges[i], 3);
  const last = histogram.counts.length;
  return {
    kind: "table",
    caption: "KL divergence in numbers",
    columns: [
      { name: "From", numeric: true },
      { name: "to", numeric: true },
      { name: "Places", numeric: true },
    ],
    rows: [
      [say`0`, say`${edge(0)}`, say`${count(histogram.underflow)}`],
      ...histogram.counts.map((n, i) => [say`${edge(i)}`, say`${edge(i + 1)}`, say`${count(n)}`]),
      [say`${edge(last)}`, say`and above`, say`${count(histogram.overflow)}`],
    ],
    folded: true,
    htmlOnly: true,
  };
}

export function evalCommand(report: ReportInput): ReturnType<typeof command> {
  return command(
    `physarium eval ${shellQuote(report.output.path)} --text FILE --against ${shellQuote(report.donor.path)}`,
  );
}
