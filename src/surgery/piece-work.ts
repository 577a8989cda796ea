import { join } from "node:path";
import { type Piece, piecesOf } from "../record/pieces.js";
import type { FloatDtype } from "../safetensors/dtypes.js";
import type { RunnableJob } from "../threads/run-jobs.js";
import type { FlowContext, OutputPlace } from "./flow-run.js";
import type { PlannedTensor, TilePlan } from "./plan.js";
import type { Job, JobResult, PieceJob, PieceResult } from "./protocol.js";
import { TensorProgress } from "./tensor-progress.js";

/** One piece of one tensor for the pool, and what its result adds to. */
export interface PieceWork extends RunnableJob<Job, JobResult> {
  readonly job: PieceJob;
}

const EMPTY_PIECE: Piece = { byteOffset: 0, byteLength: 0, rows: 0, matrix: 0, rowStart: 0 };

/**
 * The pieces of tensors, in their order; the progress of `context` is told of every one that is in.
 *
 * kind      `operate`: targets are operated on, others copied; `check`: what stands in the output is digested
 * finish    called once a tensor's last piece is in
 */
export async function* pieceWork(
  plan: TilePlan,
  tensors: Iterable<PlannedTensor> | AsyncIterable<PlannedTensor>,
  kind: "operate" | "check",
  { folder, placeOf, progress: tally }: Pick<FlowContext, "folder" | "placeOf" | "progress">,
  finish: (progress: TensorProgress) => void | Promise<void>,
): AsyncGenerator<PieceWork> {
  const { blockSize } = plan.options.params;
  const place = placeOf ?? (({ shard }: PlannedTensor) => ({ path: join(folder, shard), firstByte: 0 }));
  for await (const tensor of tensors) {
    const progress = new TensorProgress(tensor, blockSize);
    if (progress.isDone) {
      // An empty tensor has no pieces; a job of no bytes keeps its record in the common path.
      yield { job: jobOf(plan, place(tensor), tensor, EMPTY_PIECE, "copy"), done: () => finish(progress) };
      continue;
    }
    let index = 0;
    for (const piece of piecesOf(tensor.byteLength, tensor.target, blockSize)) {
      const position = index++;
      const jobKind = kind === "check" ? "check" : tensor.role === "target" ? "operate" : "copy";
      yield {
        job: jobOf(plan, place(tensor), tensor, piece, jobKind),
        done: (result) => {
          progress.add(position, result as PieceResult);
          tally.addBytes(piece.byteLength);
          if (progress.isDone) return finish(progress);
        },
      };
    }
  }
}

function jobOf(
  plan: TilePlan,
  { path, firstByte }: OutputPlace,
  tensor: PlannedTensor,
  piece: Piece,
  kind: PieceJob["kind"],
): PieceJob {
  const byteOffset = tensor.byteOffset + piece.byteOffset;
  return {
    kind,
    shard: tensor.shard,
    tensor: tensor.name,
    donorPath: join(plan.donor.path, tensor.shard),
    outputPath: path,
    byteOffset,
    outputByteOffset: byteOffset - firstByte,
    byteLength: piece.byteLength,
    dtype: tensor.dtype as FloatDtype,
    rows: piece.rows,
    cols: tensor.target?.cols ?? 0,
    rowStart: piece.rowStart,
    matrix: piece.matrix,
    matrixCount: tensor.target?.matrixCount ?? 1,
    storedByInput: tensor.target?.storedByInput ?? false,
  };
}
