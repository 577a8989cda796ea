import type { PruneMethod, PruneTarget } from "../methods/method.js";
import type { ComparisonRow } from "../record/comparison.js";

/** What is asked for behind every method. */
export interface Behind {
  /** Beside every method's row one whose layers were matched afterwards. */
  readonly thenMatched?: boolean;
  /** Beside every method's row one that was distilled afterwards, in so many steps. */
  readonly distil?: number;
}

/** What is done behind a method: nothing, and matching where it is asked for and is not the method's own part. */
export function thensOf({ matches }: PruneMethod, { thenMatched, distil }: Behind): ComparisonRow["then"][] {
  const matched = thenMatched && !matches ? (["matched"] as const) : [];
  // Behind the row that it goes on from.
  return [undefined, ...(distil === undefined ? [] : (["distilled"] as const)), ...matched];
}

/** Take over the rows of `others` that are not there, each in its group. */
export function mergeRows(rows: ComparisonRow[], others: readonly ComparisonRow[]): void {
  for (const other of others) {
    if (!rows.some((row) => isSameRow(row, other))) insertRow(rows, other);
  }
}

/** Behind the last row of its target, or at the end: the table stays in groups. */
export function insertRow(rows: ComparisonRow[], row: ComparisonRow): void {
  const last = rows.findLastIndex(({ sparsity, pattern }) => sparsity === row.sparsity && pattern === row.pattern);
  rows.splice(last < 0 ? rows.length : last + 1, 0, row);
}

/** What was asked for: two rows that say the same of it are one. */
export type RowKey = Pick<ComparisonRow, "method" | "then" | "trained" | "distil_steps" | "sparsity" | "pattern">;

export function rowKey(
  { name: method }: PruneMethod,
  target: PruneTarget,
  then: ComparisonRow["then"],
  { distil }: Behind,
): RowKey {
  return {
    method,
    ...(then === undefined ? {} : { then }),
    ...(then === "distilled" ? { trained: true as const, distil_steps: distil! } : {}),
    ...(target.kind === "pattern"
      ? { pattern: `${target.pattern.keep}:${target.pattern.of}` }
      : { sparsity: target.kind === "sparsity" ? target.sparsity : 0 }),
  };
}

export function isSameRow(one: RowKey, other: RowKey): boolean {
  const parts = ["method", "then", "distil_steps", "sparsity", "pattern"] as const;
  return parts.every((part) => one[part] === other[part]);
}
