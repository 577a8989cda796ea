import { jsonLine } from "../errors.js";
import { emitEvent, tellsEvents } from "./events.js";

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/**
 * A signal that Ctrl-C (or SIGTERM, SIGHUP) aborts; pressed twice, the process ends at once. What is done stays either
 * way. The signal's reason is the name of what came.
 */
export function stopSignal(): AbortSignal {
  const controller = new AbortController();
  for (const name of SIGNALS) {
    process.on(name, () => {
      if (controller.signal.aborted) endNow(name);
      else controller.abort(name);
    });
  }
  return controller.signal;
}

/** While a command works that writes nothing (or nothing yet). */
export interface Stoppable {
  /** Aborts with the process: for what wants to put its own things away. */
  readonly signal: AbortSignal;
  /** Run `work` whole, because a half of it would stay; a Ctrl-C meanwhile ends the process behind it. */
  whole<T>(work: () => Promise<T>): Promise<T>;
}

/**
 * Ctrl-C (or SIGTERM, SIGHUP) says what is left and ends the process at once: nobody waits for the product under way,
 * which may take long, and nothing on the disk depends on it.
 *
 * left  what stays behind, as "nothing was written"
 */
export function endOnSignal(left: string, json = false): Stoppable {
  const controller = new AbortController();
  let busy = false;
  let waiting: NodeJS.Signals | undefined;
  const end = (name: NodeJS.Signals): void => {
    const told = { code: "STOPPED", message: `stopped; ${left}`, details: {} };
    if (tellsEvents()) emitEvent("error", told);
    else process.stderr.write(json ? jsonLine({ event: "error", ...told }) : `physarium: ${told.message} [STOPPED]\n`);
    endNow(name);
  };
  for (const name of SIGNALS) {
    process.on(name, () => {
      if (controller.signal.aborted) endNow(name);
      controller.abort();
      if (busy) waiting = name;
      else end(name);
    });
  }
  return {
    signal: controller.signal,
    async whole(work) {
      busy = true;
      try {
        return await work();
      } finally {
        busy = false;
        if (waiting !== undefined) end(waiting);
      }
    },
  };
}

/**
 * End the process by the signal itself, as if nobody had listened: `process.exit` waits for every thread of the pool,
 * so for a product of the engine to its end (47 s were seen). A shell calls it 130 for SIGINT. The first process of a
 * container is not ended by signals of its own; it exits.
 */
function endNow(name: NodeJS.Signals): void {
  for (const each of SIGNALS) process.removeAllListeners(each);
  // A progress bar may have hidden the cursor.
  if (process.stderr.isTTY) process.stderr.write("\u001b[?25h");
  process.kill(process.pid, name);
  process.exit(130);
}
