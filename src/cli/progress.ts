import { SingleBar } from "cli-progress";
import { printable } from "../errors.js";

/** How progress is shown: a bar on a terminal, plain lines elsewhere, JSON events for machines, nothing when quiet. */
export interface ProgressStyle {
  readonly quiet?: boolean;
  readonly json?: boolean;
}

/** Progress of anything measured in bytes, on stderr. */
export interface ByteProgress {
  /**
   * `words` stand behind the figures: what the bytes are. `left`: the time left by someone who knows better than the
   * bytes' pace; the pace is not shown
   * then.
   */
  update(bytesDone: number, bytesTotal: number, words?: string, left?: string): void;
  /** A line of its own that stays. */
  note(line: string): void;
  stop(): void;
}

/** Nothing is shown of what is over sooner. */
const PATIENCE_MS = 2_000;
const LINE_EVERY_MS = 5_000;

export function createProgress(title: string, { quiet, json }: ProgressStyle): ByteProgress {
  if (quiet || json) return { update() {}, note() {}, stop() {} };
  return process.stderr.isTTY ? barProgress(title) : lineProgress(title);
}

function barProgress(title: string): ByteProgress {
  let bar: SingleBar | undefined;
  const meter = new Meter();
  return {
    update(bytesDone, bytesTotal, words = "", known = undefined) {
      const pace = meter.words(bytesDone, bytesTotal, known);
      if (bar === undefined) {
        bar = new SingleBar({
          stream: process.stderr,
          hideCursor: true,
          clearOnComplete: true,
          fps: 10,
          format: `${title} {bar} {percentage}% · {pace} left {words}`,
          barsize: 24,
        });
        bar.start(bytesTotal, bytesDone, { pace, words });
      }
      bar.update(bytesDone, { pace, words: words === "" ? "" : `· ${words}` });
    },
    note(line) {
      bar?.stop();
      bar = undefined;
      process.stderr.write(`${printable(line)}\n`);
    },
    stop() {
      bar?.stop();
      bar = undefined;
    },
  };
}

function lineProgress(title: string): ByteProgress {
  const meter = new Meter();
  let lastLine = performance.now() - LINE_EVERY_MS + PATIENCE_MS;
  return {
    update(bytesDone, bytesTotal, words = "", known = undefined) {
      const now = performance.now();
      if (now - lastLine < LINE_EVERY_MS) return;
      lastLine = now;
      const pace = meter.words(bytesDone, bytesTotal, known);
      const percent = bytesTotal === 0 ? 100 : (100 * bytesDone) / bytesTotal;
      process.stderr.write(`${title} ${percent.toFixed(0)} %, ${pace} left${words === "" ? "" : `, ${words}`}\n`);
    },
    note(line) {
      process.stderr.write(`${printable(line)}\n`);
    },
    stop() {},
  };
}

/**
 * Progress of anything counted (tokens, tensors, layers), as lines on stderr: none of what is over soon, then one
 * every few seconds. `words` stand behind the
 * figures: what is being worked on.
 */
export function countedProgress(
  title: string,
  { quiet, json }: ProgressStyle,
): ((done: number, total: number, words?: string) => void) | undefined {
  if (quiet || json) return undefined;
  const started = performance.now();
  let lastLine = started - LINE_EVERY_MS + PATIENCE_MS;
  return (done, total, words = "") => {
    const now = performance.now();
    if (now - lastLine < LINE_EVERY_MS) return;
    lastLine = now;
    const percent = total === 0 ? 100 : (100 * done) / total;
    const left = done === 0 ? "…" : duration(((now - started) * (total - done)) / done / 1000);
    const more = words === "" ? "" : `, ${printable(words)}`;
    process.stderr.write(`${title} ${percent.toFixed(0)} %, about ${left} left${more}\n`);
  };
}

/** The same for those who tell of each tensor before they begin it. */
export function tensorProgress(
  title: string,
  style: ProgressStyle,
): { readonly onTensor?: (name: string, position: number, total: number) => void } {
  const show = countedProgress(title, style);
  if (show === undefined) return {};
  return { onTensor: (name, position, total) => show(position, total, `tensor ${position + 1} of ${total}: ${name}`) };
}

class Meter {
  private readonly startMs = performance.now();

  /** Rate and time left, or the time left alone where it is known otherwise. */
  words(bytesDone: number, bytesTotal: number, known: string | undefined): string {
    if (known !== undefined) return known;
    const seconds = (performance.now() - this.startMs) / 1000;
    const bytesPerSecond = seconds === 0 ? 0 : bytesDone / seconds;
    const left = bytesPerSecond === 0 ? "…" : duration((bytesTotal - bytesDone) / bytesPerSecond);
    return `${(bytesPerSecond / 1e9).toFixed(2)} GB/s, ${left}`;
  }
}

export function duration(seconds: number): string {
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  if (seconds < 5_400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}
