import { PhysariumError } from "../../errors.js";
import { bytesPerFloat, type FloatDtype } from "../../safetensors/dtypes.js";
import type { StoredBand } from "../band-files.js";
import type { LocatedTensor, ModelFolder } from "../model-folder.js";
import { BAND_WEIGHTS } from "../weight-band.js";
import { type Link, liesAsStored, reorderBand, reorderColumns, streams, turned } from "./links.js";

/** A piece of a GGUF tensor and where the checkpoint has it. */
export interface Piece {
  readonly link: Link;
  readonly located: LocatedTensor;
}

/** Rows `[from, to)` of a piece, in the order of the file, as the checkpoint's dtype. */
export interface Segment {
  readonly piece: Piece;
  readonly from: number;
  readonly to: number;
  readonly bytes: Uint8Array;
}

/** Rows of a piece that are handled at once: whole periods, about `BAND_WEIGHTS` weights. */
export function bandRows({ rowLength, period = 1 }: Link): number {
  return period * Math.max(1, Math.floor(BAND_WEIGHTS / (rowLength * period)));
}

/**
 * The weights of a tensor's pieces, band by band. What lies turned over or scattered in the checkpoint is read a matrix
 * at a time; everything else a band at a time.
 */
export async function* segmentsOf(folder: ModelFolder, pieces: readonly Piece[]): AsyncGenerator<Segment> {
  for (const piece of pieces) {
    const { link, located } = piece;
    const width = bytesPerFloat(located.info.dtype as FloatDtype);
    const rowBytes = link.rowLength * width;
    const step = bandRows(link);
    const matrix = streams(link) ? undefined : await readMatrix(folder, piece, width);
    for (let from = 0; from < link.rowCount; from += step) {
      const to = Math.min(link.rowCount, from + step);
      if (matrix === undefined) {
        const first = link.matrix * link.matrixRows + link.start + from;
        const bytes = await folder.read(located, first * rowBytes, (first + to - from) * rowBytes);
        const ordered = reorderColumns(bytes, width, link, true);
        yield { piece, from, to, bytes: reorderBand(ordered, rowBytes, link, from, true) };
        continue;
      }
      const bytes = new Uint8Array((to - from) * rowBytes);
      for (let row = from; row < to; row++) {
        const theirs = link.order?.[row] ?? link.start + row;
        bytes.set(matrix.subarray(theirs * rowBytes, (theirs + 1) * rowBytes), (row - from) * rowBytes);
      }
      yield { piece, from, to, bytes: reorderColumns(bytes, width, link, true) };
    }
  }
}

/** A segment whose bytes a thread may read by itself. */
export type Band = Omit<Segment, "bytes"> & { readonly bytes: Uint8Array | StoredBand };

/** As `segmentsOf`, but what lies in the checkpoint's files as it is wanted is named, not read. */
export async function* bandsOf(folder: ModelFolder, pieces: readonly Piece[]): AsyncGenerator<Band> {
  for (const piece of pieces) {
    const { link, located } = piece;
    const path = folder.pathOf(located);
    if (path === undefined || !liesAsStored(link)) {
      yield* segmentsOf(folder, [piece]);
      continue;
    }
    const rowBytes = link.rowLength * bytesPerFloat(located.info.dtype as FloatDtype);
    const step = bandRows(link);
    for (let from = 0; from < link.rowCount; from += step) {
      const to = Math.min(link.rowCount, from + step);
      const first = link.matrix * link.matrixRows + link.start + from;
      const byteOffset = located.info.byteOffset + first * rowBytes;
      yield { piece, from, to, bytes: { path, byteOffset, byteLength: (to - from) * rowBytes } };
    }
  }
}

/** The whole matrix that a piece is part of, rows being outputs. */
async function readMatrix(folder: ModelFolder, { link, located }: Piece, width: number): Promise<Uint8Array> {
  const byteLength = link.matrixRows * link.rowLength * width;
  if (byteLength > MATRIX_LIMIT) {
    throw new PhysariumError(
      "DONOR_EXPORT_SHAPE",
      `tensor "${link.name}": a matrix of ${byteLength} bytes that must be turned over; more than ${MATRIX_LIMIT} ` +
        "are not supported",
      { tensor: link.name },
    );
  }
  const begin = link.matrix * byteLength;
  const bytes = await folder.read(located, begin, begin + byteLength);
  return link.transposed ? turned(bytes, link.rowLength, link.matrixRows, width) : bytes;
}

/** The largest matrix that is held whole: far above any that a model stores turned over. */
const MATRIX_LIMIT = 2 ** 30;
