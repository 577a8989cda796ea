import { Script } from "node:vm";
import { toPlainError } from "../../errors.js";
import { type AnswerMessage, JOB_TOO_LONG, type JobMessage } from "./confined-process.js";

/**
 * Node gives modules no other way to a watchdog that interrupts a pattern or a loop: a script with a timeout that calls
 * us back.
 */
const CALL = new Script("globalThis.runConfinedJob()");

/** The other side of `ConfinedProcess`: answer every job with its result or its error, each within its time. */
export function serveConfined<Job, Result>(handler: (job: Job) => Result): void {
  process.on("disconnect", () => process.exit(0));
  process.on("message", ({ id, job, jobMilliseconds }: JobMessage<Job>) => {
    process.send?.(answer(id, () => within(jobMilliseconds, () => handler(job))));
  });
}

function answer<Result>(id: number, run: () => Result): AnswerMessage<Result> {
  try {
    return { id, result: run() };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ERR_SCRIPT_EXECUTION_TIMEOUT") {
      return { id, error: { code: JOB_TOO_LONG, message: "", details: {} } };
    }
    return { id, error: toPlainError(error) };
  }
}

function within<Result>(milliseconds: number, run: () => Result): Result {
  const globals = globalThis as { runConfinedJob?: () => Result };
  globals.runConfinedJob = run;
  return CALL.runInThisContext({ timeout: milliseconds }) as Result;
}
