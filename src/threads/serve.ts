import { parentPort } from "node:worker_threads";
import { toPlainError } from "../errors.js";
import type { AnswerMessage, JobHandler, JobMessage } from "./pool.js";

/** The thread's side of a pool: answer every job with its result, or fail the pool with the error. */
export function serveJobs<Job, Result>(handler: JobHandler<Job, Result>): void {
  const send = (message: AnswerMessage<Result>) => parentPort!.postMessage(message);
  parentPort!.on("message", ({ id, job, slot }: JobMessage<Job>) => {
    handler(job, slot)
      .then((result) => send({ type: "result", id, slot, result }))
      // A result that cannot be sent is a failure, too.
      .catch((error: unknown) => send({ type: "failed", error: toPlainError(error) }));
  });
  send({ type: "ready" });
}
