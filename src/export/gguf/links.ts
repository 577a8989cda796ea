/** What becomes of the numbers on the way to a GGUF file, besides their type. */
export type LinkValues = "same" | "plus one" | "minus exp";

type Change = Readonly<Record<Exclude<LinkValues, "same">, (weight: number) => number>>;

export const CHANGED: Change = { "plus one": (weight) => weight + 1, "minus exp": (weight) => -Math.exp(weight) };

/** How a change of the numbers is taken back. */
export const UNDONE: Change = { "plus one": (weight) => weight - 1, "minus exp": (weight) => Math.log(-weight) };

/**
 * A piece that a tensor of the checkpoint and a tensor of a GGUF file have in common. Most tensors are one piece;
 * experts that lie stacked in the file are one each, a fused matrix that comes apart gives several.
 *
 * Rows are outputs: a tensor has as many as its dimensions but the last make, a vector one an element. `shape`s are in
 * safetensors order.
 */
export interface Link {
  readonly name: string;
  readonly shape: readonly number[];
  readonly ggufName: string;
  readonly ggufShape: readonly number[];
  /** Absent in some models (biases), or where another tensor stands in for it. */
  readonly optional: boolean;
  /** First row of the piece in the file's tensor, how many rows it has, and elements of one. */
  readonly ggufRow: number;
  readonly rowCount: number;
  readonly rowLength: number;
  /** Which of the matrices that the checkpoint's tensor stacks; 0 where it is one. */
  readonly matrix: number;
  /** Rows of that matrix, the piece's own and others'. */
  readonly matrixRows: number;
  /** Row of the matrix that each row of the piece is: `start` + its number, or `order` of it. */
  readonly start: number;
  readonly order?: Int32Array;
  /** So many rows, from a multiple on, stay among themselves in `order`. */
  readonly period?: number;
  /** Column of the checkpoint's matrix that each column of the file's is, where they lie in another order. */
  readonly columns?: Int32Array;
  /** The checkpoint holds the matrix as (inputs, outputs). */
  readonly transposed: boolean;
  readonly values: LinkValues;
}

type Whole = Pick<Link, "name" | "shape" | "ggufName"> & Partial<Link>;

/** A link whose parts that are not given are those of a whole tensor. */
export function link(given: Whole): Link {
  const ggufShape = given.ggufShape ?? given.shape;
  const rowLength = given.rowLength ?? rowLengthOf(ggufShape);
  const rowCount = given.rowCount ?? ggufShape.reduce((product, each) => product * each, 1) / rowLength;
  const matrixRows = given.matrixRows ?? rowCount;
  return {
    optional: false,
    ggufRow: 0,
    matrix: 0,
    start: 0,
    transposed: false,
    values: "same",
    ...given,
    ggufShape,
    rowLength,
    rowCount,
    matrixRows,
  };
}

export function rowLengthOf(shape: readonly number[]): number {
  return shape.length < 2 ? 1 : shape[shape.length - 1];
}

/**
 * Hugging Face rotates channel i of a head of n with channel i + n/2, some engines 2i with 2i + 1: row i of each half
 * stands at 2i and 2i + 1 there.
 */
export function pairedHeads(heads: number, headLength: number): Pick<Link, "order" | "period"> {
  const order = new Int32Array(heads * headLength);
  for (let row = 0; row < order.length; row++) {
    const inHead = row % headLength;
    order[row] = row - inHead + (inHead % 2) * (headLength / 2) + (inHead >> 1);
  }
  return { order, period: headLength };
}

/** q, k, v that lie head group by head group in the checkpoint stand one behind the other in the file. */
export function ungrouped(heads: number, groups: number, headLength: number): Pick<Link, "order"> {
  const perGroup = heads / groups;
  const rows: number[] = [];
  const push = (group: number, head: number): void => {
    const first = (group * (perGroup + 2) + head) * headLength;
    for (let row = 0; row < headLength; row++) rows.push(first + row);
  };
  for (let group = 0; group < groups; group++) for (let head = 0; head < perGroup; head++) push(group, head);
  for (const part of [perGroup, perGroup + 1]) for (let group = 0; group < groups; group++) push(group, part);
  return { order: Int32Array.from(rows) };
}

/**
 * Heads of values as they stand in the file: the checkpoint has those of a key head side by side, the file first one of
 * each key head, then the next of each. source: llama.cpp conversion/qwen.py `_reorder_v_heads`
 */
export function tiledHeads(keyHeads: number, heads: number, headLength: number): Int32Array {
  const each = heads / keyHeads;
  return Int32Array.from({ length: heads * headLength }, (_, row) => {
    const head = Math.floor(row / headLength);
    return ((head % keyHeads) * each + Math.floor(head / keyHeads)) * headLength + (row % headLength);
  });
}

/** Whether a piece can go band by band: its rows lie one behind the other, or stay within small groups. */
export function streams({ transposed, order, period }: Link): boolean {
  return !transposed && (order === undefined || period !== undefined);
}

/** Whether the file has a piece's elements one behind the other as the checkpoint has them. */
export function liesAsStored({ transposed, order, columns }: Link): boolean {
  return !transposed && order === undefined && columns === undefined;
}

/** Rows `[from, to)` of a piece that streams, put into the file's order (`toGguf`) or back; whole periods. */
export function reorderBand(
  bytes: Uint8Array,
  rowBytes: number,
  piece: Link,
  from: number,
  toGguf: boolean,
): Uint8Array {
  const { order } = piece;
  if (order === undefined) return bytes;
  const out = new Uint8Array(bytes.byteLength);
  for (let at = 0; at < bytes.byteLength / rowBytes; at++) {
    const theirs = order[from + at] - from;
    const [read, write] = toGguf ? [theirs, at] : [at, theirs];
    out.set(bytes.subarray(read * rowBytes, (read + 1) * rowBytes), write * rowBytes);
  }
  return out;
}

/** Whole rows with their columns in the file's order (`toGguf`) or back; `width`: bytes of an element. */
export function reorderColumns(bytes: Uint8Array, width: number, { columns }: Link, toGguf: boolean): Uint8Array {
  if (columns === undefined) return bytes;
  const out = new Uint8Array(bytes.byteLength);
  const rowBytes = columns.length * width;
  for (let row = 0; row < bytes.byteLength; row += rowBytes) {
    for (let at = 0; at < columns.length; at++) {
      const [read, write] = toGguf ? [columns[at], at] : [at, columns[at]];
      out.set(bytes.subarray(row + read * width, row + (read + 1) * width), row + write * width);
    }
  }
  return out;
}

/** Numbers a column, in the file's order. */
export function columnsInFile(values: Float32Array, { columns }: Link): Float32Array {
  return columns === undefined ? values : values.map((_, at) => values[columns[at]]);
}

/** A matrix turned over: (rows, cols) elements of `width` bytes → (cols, rows). */
export function turned(bytes: Uint8Array, rows: number, cols: number, width: number): Uint8Array {
  const out = new Uint8Array(bytes.byteLength);
  const [from, to] =
    width === 2
      ? [new Uint16Array(bytes.buffer, bytes.byteOffset, rows * cols), new Uint16Array(out.buffer)]
      : [new Uint32Array(bytes.buffer, bytes.byteOffset, rows * cols), new Uint32Array(out.buffer)];
  for (let row = 0; row < rows; row++)
    for (let col = 0; col < cols; col++) to[col * rows + row] = from[row * cols + col];
  return out;
}
