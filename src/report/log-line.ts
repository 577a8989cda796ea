import { printable } from "../errors.js";
import type { TensorRow } from "../record/surgery-report.js";
import { count, percent } from "./number-words.js";

/** One line of run.log for an operated tensor: everything of its ledger record, made for reading and for `grep`. */
export function renderLogLine(row: TensorRow): string {
  const shape = row.shape.join("x");
  return [
    printable(row.shard),
    printable(row.name),
    `${printable(row.dtype)} ${shape}`,
    `${count(row.tiles)} ${row.tiles === 1 ? "tile" : "tiles"}`,
    `killed ${count(row.killed)} of ${count(row.weights)}`,
    ...(row.already_zero > 0 ? [`zero before ${count(row.already_zero)}`] : []),
    `sparsity ${percent(row.sparsity)}`,
  ].join("  ");
}

/** One line for a tensor that was carried over. */
export function renderCarriedLogLine(row: {
  name: string;
  shard: string;
  dtype: string;
  shape: readonly number[];
}): string {
  const what = `${printable(row.dtype)} ${row.shape.join("x")}`;
  return `${printable(row.shard)}  ${printable(row.name)}  ${what}  carried over`;
}
