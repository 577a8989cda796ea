import { PhysariumError } from "../errors.js";
import type { Pool } from "./pool.js";

/** A job and what to do with its result. */
export interface RunnableJob<Job, Result> {
  readonly job: Job;
  done(result: Result): void | Promise<void>;
}

/**
 * Feed jobs to a pool, as many at once as it takes, in order of issue; results come in any order.
 *
 * Stops issuing at the first failure or when `signal` aborts, waits for what is in flight, then throws: the failure, or `STOPPED`.
 */
export async function runJobs<Job, Result>(
  jobs: Iterable<RunnableJob<Job, Result>> | AsyncIterable<RunnableJob<Job, Result>>,
  pool: Pool<Job, Result>,
  signal?: AbortSignal,
): Promise<void> {
  const inFlight = new Set<Promise<void>>();
  let failure: { error: unknown } | undefined;
  try {
    for await (const { job, done } of jobs) {
      if (failure !== undefined || signal?.aborted) break;
      const running: Promise<void> = pool
        .run(job)
        .then(done)
        .catch((error: unknown) => {
          failure ??= { error };
        })
        .finally(() => inFlight.delete(running));
      inFlight.add(running);
      if (inFlight.size >= pool.capacity) await Promise.race(inFlight);
    }
  } catch (error) {
    failure ??= { error };
  }
  await Promise.all(inFlight);
  if (failure !== undefined) throw failure.error;
  if (signal?.aborted) throw new PhysariumError("STOPPED", "stopped on request");
}
