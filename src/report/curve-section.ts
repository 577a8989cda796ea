import type { ComparisonNumbers } from "../record/comparison-schema.js";
import type { ReportInput } from "../record/report-input.js";
import { methodTitle } from "./comparison.js";
import { zerosOf } from "./layer-grid.js";
import { fixed, percent, significant } from "./number-words.js";
import { type Block, code, foreign, paragraph, type Section, say, type Text } from "./report-text.js";
import { table } from "./table.js";

/** Perplexity over the donor's at a share of zeros in the targets. */
export interface CurvePoint {
  readonly sparsity: number;
  readonly ratio: number;
}

export interface SparsityCurve {
  /** One a method, its points in the order of their zeros; what has a pattern (2:4) is no point of a curve. */
  readonly methods: readonly {
    readonly title: string;
    readonly isOurs: boolean;
    readonly points: readonly CurvePoint[];
  }[];
  /** This operation; its ratio is missing where nothing was measured beside the donor. */
  readonly run: { readonly sparsity: number; readonly ratio?: number };
}

/** The rows of `compare` as the flows of surgery are called there. */
const METHOD_OF_FLOW: Readonly<Record<string, string>> = {
  magnitude: "tile-magnitude",
  balanced: "balanced",
  activation: "activation",
  matched: "matched",
};

/** Perplexity against sparsity with this operation as a point; nothing where no comparison stands beside it. */
export function sparsityCurve(report: ReportInput): SparsityCurve | undefined {
  const { comparison, quality, per_tensor, totals } = report;
  if (comparison == null) return undefined;
  const methods = new Map<string, { title: string; isOurs: boolean; points: CurvePoint[] }>();
  for (const row of comparison.rows) {
    if (row.pattern !== undefined) continue;
    const title = titleOf(row);
    const isOurs = row.method === METHOD_OF_FLOW[report.flow] && row.then === undefined;
    const method = methods.get(title) ?? { title, isOurs, points: [] };
    method.points.push({ sparsity: row.sparsity_reached, ratio: Math.exp(row.damage) });
    methods.set(title, method);
  }
  if (methods.size === 0) return undefined;
  const ratio = quality?.divergence?.perplexity_ratio;
  return {
    methods: [...methods.values()].map((method) => ({
      ...method,
      points: method.points.sort((a, b) => a.sparsity - b.sparsity),
    })),
    run: {
      sparsity: totals.target_weights > 0 ? zerosOf(per_tensor) / totals.target_weights : 0,
      ...(ratio === undefined ? {} : { ratio }),
    },
  };
}

/** What a curve says at a share of zeros: straight between its points in ln; nothing outside of them. */
export function readOff(points: readonly CurvePoint[], sparsity: number): number | undefined {
  for (const [at, b] of points.entries()) {
    if (b.sparsity === sparsity) return b.ratio;
    const a = points[at - 1];
    if (a === undefined || a.sparsity > sparsity || b.sparsity < sparsity) continue;
    const along = (sparsity - a.sparsity) / (b.sparsity - a.sparsity);
    return Math.exp(Math.log(a.ratio) + along * (Math.log(b.ratio) - Math.log(a.ratio)));
  }
  return undefined;
}

/** The section; where no comparison was run there is none. */
export function curveSection(report: ReportInput): Section | undefined {
  const curve = sparsityCurve(report);
  const { comparison } = report;
  if (curve === undefined || comparison == null) return undefined;
  const { run } = curve;
  const zeros = percent(run.sparsity);
  const rows = curve.methods.flatMap(({ title, points }) =>
    points.map(({ sparsity, ratio }): Text[] => [
      say`${foreign(title)}`,
      say`${percent(sparsity)}`,
      say`${times(ratio)}`,
    ]),
  );
  rows.unshift([
    say`this operation`,
    say`${zeros}`,
    say`${run.ratio === undefined ? "not measured" : times(run.ratio)}`,
  ]);
  const blocks: Block[] = [
    paragraph(
      say`${
        run.ratio === undefined
          ? say`This operation has ${zeros} zeros in its targets; what it costs was not measured, so it is a line and no
              point.`
          : say`This operation: ${zeros} zeros in its targets, perplexity ${times(run.ratio)} of the donor's.`
      } ${besideIt(curve)}The curves are physarium compare's on the same donor, scored on ${code(comparison.text)}${
        run.ratio === undefined || isSameText(report, comparison)
          ? "."
          : "; this operation was scored on another text, or by another protocol, so mind small distances."
      }`,
    ),
    {
      kind: "picture",
      picture: "curve",
      title: "Perplexity against sparsity",
      caption: say`Perplexity over the donor's (logarithmic) at the share of zeros in the targets, a line a method; the
        ring is this operation.`,
    },
    {
      ...table("Perplexity against sparsity", ["Method", "Zeros", "Perplexity, of the donor's"], rows, [1, 2]),
      folded: true,
    },
  ];
  return { id: "curve", title: "Perplexity against sparsity", blocks };
}

/** What the other methods' curves say at this operation's zeros, the least first. */
function besideIt({ methods, run }: SparsityCurve): Text {
  const there = methods
    .flatMap(({ title, points }) => {
      const ratio = readOff(points, run.sparsity);
      return ratio === undefined ? [] : [{ title, ratio }];
    })
    .sort((a, b) => a.ratio - b.ratio);
  if (there.length === 0) return say`No curve reaches that share of zeros. `;
  const [least] = there;
  const most = there[there.length - 1];
  const rest = most === least ? say`` : say`, most by ${foreign(most.title)}, ${times(most.ratio)}`;
  return say`At that share of zeros least is lost by ${foreign(least.title)}, ${times(least.ratio)}${rest}, read off
    straight lines between what was compared. `;
}

/** Whether an operation and a comparison were scored on the same predictions, as far as the records tell. */
export function isSameText({ quality }: ReportInput, { text, protocol }: ComparisonNumbers): boolean {
  return (
    quality?.text.name === (text.split(/[\\/]/).at(-1) ?? text) &&
    quality.protocol.name === protocol.name &&
    quality.protocol.window === protocol.window &&
    quality.protocol.tokens === protocol.tokens
  );
}

function titleOf(row: ComparisonNumbers["rows"][number]): string {
  return methodTitle(row, row.title === undefined ? {} : { [row.method]: row.title });
}

function times(ratio: number): string {
  return `× ${ratio < 10 ? fixed(ratio, 3) : significant(ratio, 3)}`;
}
