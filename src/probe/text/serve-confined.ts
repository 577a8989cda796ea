import { getHeapStatistics } from "node:v8";
import { Script } from "node:vm";
import { toPlainError } from "../../errors.js";
import { type AnswerMessage, JOB_TOO_LONG, type JobMessage } from "./confined-process.js";

/**
 * Node gives modules no other way to a watchdog that interrupts a pattern or a loop: a script with a timeout that calls
 * us back.
 */
const CALL = new Script("globalThis.runConfinedJob()");

/** V8 watches its heap alone; native code takes memory beside it. Node itself needs about half of this. */
const BESIDE_HEAP_BYTES = 128 * 2 ** 20;
/** Native code fills a few gigabytes a second at most. */
const LOOK_EVERY_MILLISECONDS = 20;

/** The other side of `ConfinedProcess`: answer every job with its result or its error, in order, each within its time. */
export function serveConfined<Job, Result>(handler: (job: Job) => Result | Promise<Result>): void {
  // An exit would wait for native code that is still at work.
  const end = (): unknown => process.kill(process.pid, "SIGKILL");
  process.on("disconnect", end);
  const limit = getHeapStatistics().heap_size_limit + BESIDE_HEAP_BYTES;
  setInterval(() => process.memoryUsage.rss() > limit && end(), LOOK_EVERY_MILLISECONDS).unref();
  let before = Promise.resolve();
  process.on("message", ({ id, job, jobMilliseconds }: JobMessage<Job>) => {
    before = before.then(async () => {
      process.send?.(await answer(id, () => within(jobMilliseconds, () => handler(job))));
    });
  });
}

async function answer<Result>(id: number, run: () => Promise<Result>): Promise<AnswerMessage<Result>> {
  try {
    return { id, result: await run() };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ERR_SCRIPT_EXECUTION_TIMEOUT") {
      return { id, error: { code: JOB_TOO_LONG, message: "", details: {} } };
    }
    return { id, error: toPlainError(error) };
  }
}

/** JavaScript is interrupted; native code that works beside it is no longer waited for. */
async function within<Result>(milliseconds: number, run: () => Result | Promise<Result>): Promise<Result> {
  const globals = globalThis as { runConfinedJob?: () => Result | Promise<Result> };
  globals.runConfinedJob = run;
  const result = CALL.runInThisContext({ timeout: milliseconds }) as Result | Promise<Result>;
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(Object.assign(new Error(), { code: "ERR_SCRIPT_EXECUTION_TIMEOUT" })),
      milliseconds,
    );
  });
  try {
    return await Promise.race([result, late]);
  } finally {
    clearTimeout(timer);
  }
}
