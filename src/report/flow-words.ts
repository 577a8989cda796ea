import type { ReportInput } from "../record/report-input.js";
import type { FlowParamsRecord } from "../record/surgery-report.js";
import { activationBlocks } from "./activation-words.js";
import { fixed, significant } from "./number-words.js";
import { type Block, foreign, paragraph, say } from "./report-text.js";

/** What the flow of a report is, in words and formulas (DESIGN.md §2). */
export function flowBlocks(report: ReportInput): Block[] {
  const { flow, flow_version: version, params } = report;
  const known = flow === "magnitude" || flow === "balanced";
  const blocks: Block[] = [];
  if (known) {
    blocks.push(
      paragraph(
        say`Every weight of a tile is a tube. Its drive y says how strongly it is fed, its conductance D how wide it is,
          and a fixed load λ starves narrow tubes: a tube that carries much grows, one that carries little shrinks, and
          after ${fixed(params.n_iter, 0)} steps the tubes below the saddle are dead and their weights become zero.`,
      ),
      formula(params, flow),
    );
  }
  if (flow === "magnitude") {
    blocks.push(
      paragraph(
        say`This flow looks at weight magnitudes only: no activations, no gradients, one tile at a time, deterministic.
          Nothing is tuned per tensor, so the sparsity of a tensor emerges from how its own weights are spread. It is
          Physarium's own reconstruction of a magnitude flow: the report that started the project shows results of one
          but gives no formula.`,
      ),
    );
  } else if (flow === "balanced") {
    blocks.push(
      paragraph(
        say`The drive is a weight's magnitude times the share of the flow its row and column carry when every input
          channel of the tile sends one unit and every output channel draws one (8 Sinkhorn sweeps), so that weak
          channels keep their best tubes. The flow looks at weights only: no activations, no gradients.`,
      ),
    );
  } else if (report.activation !== undefined) {
    blocks.push(...activationBlocks(report.activation));
  } else {
    blocks.push(
      paragraph(
        say`Flow ${foreign(flow)} ${foreign(version)}. Its parameters are in the table of inputs; docs/ARCHITECTURE.md
          says how each flow decides.`,
      ),
    );
  }
  return blocks;
}

function formula(params: FlowParamsRecord, flow: string): Block {
  const { beta, n_iter: steps, block_size: block } = params;
  const survival = params.survival ?? 0;
  const load = ((survival * (beta - 1)) / beta) ** beta / (beta - 1);
  return {
    kind: "lines",
    label: "The flow of a tile",
    lines: [
      flow === "balanced"
        ? row("drive", "y = |w|·r·c, scaled to mean 1", `over a tile of ${block} × ${block}`)
        : row("drive", "y = |w| / mean|w|", `over a tile of ${block} × ${block}`),
      row("start", "D ← y^β", `β = ${significant(beta)}`),
      row("flow", "Q = y·D / (D + λ)", `λ = (s(β−1)/β)^β / (β−1) = ${significant(load)}`),
      row("adapt", "D ← Q^β", `${fixed(steps, 0)} times; s = ${significant(survival)}`),
      row("starve", "where D < λ(β−1) at the end", `λ(β−1) = ${significant(load * (beta - 1))}`),
    ],
  };
}

function row(name: string, formula: string, value: string): string {
  return `${name.padEnd(8)}${formula.padEnd(32)}${value}`;
}
