import type { FileLayer } from "../checkpoint/file-layer.js";
import { inlinePool, type Pool, threadPool } from "../threads/pool.js";
import { PieceOperator } from "./piece-operator.js";
import type { Job, JobResult, OperatorSetup, WorkerSetup } from "./protocol.js";

export type PiecePool = Pool<Job, JobResult>;

/** Workers for pieces; 0 of them means this thread, where every call of `files` is seen. */
export async function createPiecePool(
  workers: number,
  module: WebAssembly.Module,
  setup: OperatorSetup,
  files: FileLayer,
): Promise<PiecePool> {
  const { slotCount } = setup.sizes;
  if (workers > 0) {
    const workerData: WorkerSetup = { module, operator: setup };
    return threadPool(new URL("./worker.js", import.meta.url), workerData, workers, slotCount);
  }
  const operator = await PieceOperator.create(module, setup, files);
  return inlinePool(operator.handle, slotCount, () => operator.close());
}
