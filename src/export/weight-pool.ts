import { availableParallelism } from "node:os";
import { inlinePool, type Pool, threadPool } from "../threads/pool.js";

/** Jobs that a thread has at once: one in hand, one waiting. */
const SLOTS = 2;
/** Below so many weights threads take longer to start than to work. */
const THREADS_FROM = 1 << 21;

/**
 * Threads for so many weights, or none where that is quicker; the result does not depend on their number.
 *
 * worker  the module that a thread runs
 * inline  the same work, here
 */
export function openWeightPool<Job, Result>(
  worker: URL,
  inline: () => (job: Job) => Result,
  weights: number,
  workers = availableParallelism(),
): Promise<Pool<Job, Result>> {
  if (workers > 1 && weights >= THREADS_FROM) return threadPool(worker, undefined, workers, SLOTS);
  const work = inline();
  const pool = inlinePool(
    async (job: Job) => work(job),
    1,
    async () => {},
  );
  return Promise.resolve(pool);
}
