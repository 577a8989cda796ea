import { parentPort } from "node:worker_threads";
import { toPlainError } from "../errors.js";
import type { AnswerMessage, CloseMessage, JobHandler, JobMessage } from "./pool.js";

/**
 * The thread's side of a pool: answer every job with its result, or fail the pool with the error. `close` gives back
 * what the thread has open: a thread that is ended in the middle of opening a file leaves it open in the process.
 */
export function serveJobs<Job, Result>(
  handler: JobHandler<Job, Result>,
  close: () => Promise<void> = async () => {},
): void {
  const send = (message: AnswerMessage<Result>) => parentPort!.postMessage(message);
  const inFlight = new Set<Promise<void>>();
  parentPort!.on("message", (message: JobMessage<Job> | CloseMessage) => {
    if ("type" in message) {
      void Promise.all(inFlight)
        .then(close)
        .catch(() => {})
        .then(() => parentPort!.close());
      return;
    }
    const { id, job, slot } = message;
    const answered = handler(job, slot)
      .then((result) => send({ type: "result", id, slot, result }))
      // A result that cannot be sent is a failure, too.
      .catch((error: unknown) => send({ type: "failed", error: toPlainError(error) }))
      .finally(() => inFlight.delete(answered));
    inFlight.add(answered);
  });
  send({ type: "ready" });
}
