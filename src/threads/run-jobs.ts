import { refuseStopped } from "../errors.js";
import type { Pool } from "./pool.js";

/** A job and what to do with its result. */
export interface RunnableJob<Job, Result> {
  readonly job: Job;
  done(result: Result): void | Promise<void>;
}

/**
 * Feed jobs to a pool, as many at once as it takes, in order of issue; results come in any order.
 *
 * Stops issuing at the first failure or when `signal` aborts, then throws: the failure, or `STOPPED`. What is in flight
 * is waited for, except on an abort where closing the pool ends it: a slow disk must not hold up Ctrl-C.
 */
export async function runJobs<Job, Result>(
  jobs: Iterable<RunnableJob<Job, Result>> | AsyncIterable<RunnableJob<Job, Result>>,
  pool: Pool<Job, Result>,
  signal?: AbortSignal,
): Promise<void> {
  const inFlight = new Set<Promise<void>>();
  let failure: { error: unknown } | undefined;
  let whenAborted = () => {};
  const aborted = new Promise<void>((resolve) => {
    whenAborted = resolve;
    if (signal?.aborted) resolve();
    else signal?.addEventListener("abort", whenAborted, { once: true });
  });
  try {
    for await (const { job, done } of jobs) {
      if (failure !== undefined || signal?.aborted) break;
      const running: Promise<void> = pool
        .run(job)
        .then(async (result) => {
          // What comes in after an abort that nobody waits for is not recorded any more.
          if (!(signal?.aborted && pool.endsJobsOnClose)) await done(result);
        })
        .catch((error: unknown) => {
          failure ??= { error };
        })
        .finally(() => inFlight.delete(running));
      inFlight.add(running);
      if (inFlight.size >= pool.capacity) await Promise.race([...inFlight, aborted]);
    }
  } catch (error) {
    failure ??= { error };
  }
  const settled = Promise.all(inFlight);
  await (pool.endsJobsOnClose ? Promise.race([settled, aborted]) : settled);
  signal?.removeEventListener("abort", whenAborted);
  if (failure !== undefined) throw failure.error;
  refuseStopped(signal);
}
