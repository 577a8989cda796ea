import type { ReportInput } from "../record/report-input.js";
import { count, counted, fixed, percent } from "./number-words.js";
import { type Block, code, foreign, type Piece, paragraph, type Section, say, type Text } from "./report-text.js";
import { limited, MAX_ROWS, table } from "./table.js";

/** Where there are too many rows, this many of either end. */
const ENDS = 25;

/** Every target tensor; of very many, both ends. */
export function tensorsSection(report: ReportInput): Section {
  const rows = report.per_tensor;
  const cells = (row: (typeof rows)[number]): Text[] => [
    say`${code(row.name)}`,
    say`${foreign(row.dtype)} ${row.shape.map((n) => fixed(n, 0)).join(" × ")}`,
    say`${count(row.tiles)}`,
    say`${count(row.weights)}`,
    say`${count(row.killed)}`,
    say`${count(row.already_zero)}`,
    say`${percent(row.sparsity)}`,
  ];
  const columns = ["Tensor", "Dtype, shape", "Tiles", "Weights", "Killed", "Zero before", "Sparsity"];
  const numeric = [2, 3, 4, 5, 6];
  if (rows.length <= MAX_ROWS) {
    return {
      id: "tensors",
      title: "Every tensor",
      blocks: [
        paragraph(
          rows.length === 0
            ? say`No tensor was operated on.`
            : say`The ${counted(rows.length, "target tensor")}, as they lie in the shards; the log of the run has the
              same lines.`,
        ),
        ...(rows.length === 0
          ? []
          : [{ ...table(`All ${counted(rows.length, "tensor")}`, columns, rows.map(cells), numeric), folded: true }]),
      ],
    };
  }
  const sorted = [...rows].sort((a, b) => b.sparsity - a.sparsity);
  return {
    id: "tensors",
    title: "Every tensor",
    blocks: [
      paragraph(
        say`There are ${count(rows.length)} target tensors: here are the ${ENDS} most and the ${ENDS} least pruned, all
          others are in surgery.json and run.log.`,
      ),
      { ...table(`The ${ENDS} most pruned`, columns, sorted.slice(0, ENDS).map(cells), numeric), folded: true },
      {
        ...table(`The ${ENDS} least pruned`, columns, sorted.slice(-ENDS).reverse().map(cells), numeric),
        folded: true,
      },
    ],
  };
}

/** Side files, what was left out, and warnings. */
export function filesSection(report: ReportInput): Section {
  const blocks: Block[] = [];
  if (report.side_files.length > 0) {
    blocks.push(
      paragraph([
        `Copied byte for byte: `,
        ...report.side_files.slice(0, 60).flatMap((file, i): Piece[] => [i === 0 ? "" : ", ", code(file)]),
        report.side_files.length > 60
          ? ` and ${count(report.side_files.length - 60)} more, listed in surgery.json.`
          : ".",
      ]),
    );
  } else {
    blocks.push(paragraph(say`The donor had no side files.`));
  }
  const { model_card: card } = report;
  if (card !== undefined) {
    blocks.push(
      paragraph(
        card.donor_as === undefined
          ? say`${code(card.file)} is this output's model card; the donor had none.`
          : say`${code(card.file)} is this output's model card; the donor's is kept as ${code(card.donor_as)}.`,
      ),
    );
  }
  if (report.left_out.length > 0) {
    blocks.push(
      limited(
        table(
          "Left out",
          ["File", "Why"],
          report.left_out.map(({ file, reason }) => [say`${code(file)}`, say`${foreign(reason)}`]),
        ),
        say`surgery.json has the rest`,
      ),
    );
  } else {
    blocks.push(paragraph(say`Nothing in the donor's folder was left out.`));
  }
  if (report.warnings.length > 0) {
    blocks.push(
      limited(
        table(
          counted(report.warnings.length, "warning"),
          ["Code", "Message"],
          report.warnings.map((warning) => [say`${code(warning.code)}`, say`${foreign(warning.message)}`]),
        ),
        say`the ledger has the rest`,
      ),
    );
  } else {
    blocks.push(paragraph(say`The run gave no warning.`));
  }
  return { id: "files", title: "Files and warnings", blocks };
}
