import { jsonLine } from "../errors.js";
import { emitEvent, tellsEvents } from "./events.js";

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/** A terminal sends Ctrl-C to all its processes, and a parent passes its own on: so soon after, it is the same press. */
const SAME_PRESS_MS = 50;

type Heard = (name: NodeJS.Signals, again: boolean) => void;

/** One process, one stop: whoever asks for the signal gets this one. Its reason is the name of what came. */
const stop = new AbortController();
let heard: Heard | undefined;
let heardAt = 0;

/** From now on a signal is `to`'s business; the result gives it back to whoever had it before. */
export function listen(to: Heard): () => void {
  const before = heard;
  if (before === undefined) for (const name of SIGNALS) process.on(name, () => hear(name));
  heard = to;
  return () => {
    heard = before ?? end("nothing was written");
  };
}

function hear(name: NodeJS.Signals): void {
  const again = stop.signal.aborted;
  const now = performance.now();
  if (again && now - heardAt < SAME_PRESS_MS) return;
  heardAt = now;
  stop.abort(name);
  heard?.(name, again);
}

/** The work itself hears it; pressed twice, the process ends at once. */
const ask: Heard = (name, again) => {
  if (again) endNow(name);
};

/**
 * A signal that Ctrl-C (or SIGTERM, SIGHUP) aborts; pressed twice, the process ends at once. What is done stays either
 * way. The signal's reason is the name of what came.
 */
export function stopSignal(): AbortSignal {
  listen(ask);
  return stop.signal;
}

/**
 * Run `work` whole, or until it has heard the signal it gets; where it has not, a Ctrl-C meanwhile ends the process
 * behind it.
 */
export async function heardBy<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const giveBack = listen(ask);
  let result: T;
  try {
    result = await work(stop.signal);
  } finally {
    giveBack();
  }
  if (stop.signal.aborted) heard?.(stop.signal.reason, true);
  return result;
}

/** While a command works that writes nothing (or nothing yet). */
export interface Stoppable {
  /** Run `work` whole, because a half of it would stay; a Ctrl-C meanwhile ends the process behind it. */
  whole<T>(work: () => Promise<T>): Promise<T>;
}

/**
 * Ctrl-C (or SIGTERM, SIGHUP) says what is left and ends the process at once: nobody waits for the product under way,
 * which may take long, and nothing on the disk depends on it. Until a command says otherwise, that is so.
 *
 * left  what stays behind, as "nothing was written"
 */
export function endOnSignal(left: string): Stoppable {
  const heardNow = end(left);
  listen(heardNow);
  // It came while nobody had asked for it yet.
  if (stop.signal.aborted) heardNow(stop.signal.reason, true);
  return { whole: (work) => heardBy(work) };
}

function end(left: string): Heard {
  return (name) => {
    const told = { code: "STOPPED", message: `stopped; ${left}`, details: {} };
    if (tellsEvents()) emitEvent("error", told);
    else {
      const json = process.argv.includes("--json");
      process.stderr.write(json ? jsonLine({ event: "error", ...told }) : `physarium: ${told.message} [STOPPED]\n`);
    }
    endNow(name);
  };
}

/**
 * End the process by the signal itself, as if nobody had listened: `process.exit` waits for every thread of the pool,
 * so for a product of the engine to its end (47 s were seen). A shell calls it 130 for SIGINT. The first process of a
 * container is not ended by signals of its own; it exits.
 */
export function endNow(name: NodeJS.Signals): void {
  for (const each of SIGNALS) process.removeAllListeners(each);
  // A progress bar may have hidden the cursor.
  if (process.stderr.isTTY) process.stderr.write("\u001b[?25h");
  process.kill(process.pid, name);
  process.exit(130);
}
