import { availableParallelism } from "node:os";
import { type FileLayer, nodeFiles } from "../checkpoint/file-layer.js";
import { inlinePool, type JobHandler, type Pool, threadPool } from "../threads/pool.js";

/** Jobs that a thread has at once: one in hand, others read and written. */
const SLOTS = 4;
/** Below so many weights threads take longer to start than to work. */
const THREADS_FROM = 1 << 21;

/** The same work in this thread. */
export interface InlineWork<Job, Result> {
  readonly handle: JobHandler<Job, Result>;
  close(): Promise<void>;
}

/**
 * Threads for so many weights, or none where that is quicker; the result does not depend on their number.
 *
 * worker  the module that a thread runs, and its `workerData`
 * inline  the same work, here, through `files`
 */
export function openWeightPool<Job, Result>(
  worker: URL,
  workerData: unknown,
  inline: () => InlineWork<Job, Result>,
  weights: number,
  files: FileLayer,
  workers = availableParallelism(),
): Promise<Pool<Job, Result>> {
  // A file layer of somebody's own sees every call.
  const isThreaded = workers > 1 && weights >= THREADS_FROM && files === nodeFiles;
  if (isThreaded) return threadPool(worker, workerData, workers, SLOTS);
  const work = inline();
  return Promise.resolve(inlinePool(work.handle, 1, () => work.close()));
}
