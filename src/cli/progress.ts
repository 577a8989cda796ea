import { SingleBar } from "cli-progress";
import { printable } from "../errors.js";
import { emitEvent, tellsEvents } from "./events.js";

/** How progress is shown: a bar on a terminal, plain lines elsewhere, JSON lines with `--events`, nothing when quiet. */
export interface ProgressStyle {
  readonly quiet?: boolean;
  readonly json?: boolean;
}

/** What is counted; bytes have a rate in GB/s, everything else one of its own. */
export type Unit = "bytes" | "tokens" | "tensors" | "layers" | "steps";

/** Progress of one piece of work, on stderr. */
export interface Progress {
  /**
   * `words` stand behind the figures: what is being worked on. `left`: the time left by someone who knows better than
   * the pace; the pace is not shown then.
   */
  update(done: number, total: number, words?: string, left?: string): void;
  /** A line of its own that stays. */
  note(line: string): void;
  stop(): void;
}

export type ByteProgress = Progress;

/** Nothing is shown of what is over sooner. */
const PATIENCE_MS = 2_000;
const LINE_EVERY_MS = 5_000;
const EVENT_EVERY_MS = 250;

/** The bar on the terminal, if there is one: whatever else is printed must take it away first. */
let standing: { stop(): void } | undefined;

/** Take the bar away before something else is printed. */
export function clearProgress(): void {
  standing?.stop();
}

/** The one display of every command. */
export function createProgress(title: string, { quiet, json }: ProgressStyle, unit: Unit = "bytes"): Progress {
  if (tellsEvents()) return eventProgress(title, unit);
  if (quiet || json) return { update() {}, note() {}, stop() {} };
  return process.stderr.isTTY ? barProgress(title, unit) : lineProgress(title, unit);
}

function eventProgress(title: string, unit: Unit): Progress {
  let last = Number.NEGATIVE_INFINITY;
  return {
    update(done, total, words) {
      const now = performance.now();
      if (now - last < EVENT_EVERY_MS && done < total) return;
      last = now;
      emitEvent("progress", { what: title, unit, done, total, ...(words === undefined ? {} : { words }) });
    },
    note(message) {
      emitEvent("note", { message });
    },
    stop() {},
  };
}

function barProgress(title: string, unit: Unit): Progress {
  let bar: SingleBar | undefined;
  const pace = new Pace(unit);
  const stop = (): void => {
    bar?.stop();
    bar = undefined;
    standing = undefined;
  };
  return {
    update(done, total, words = "", known = undefined) {
      const line = { words: printable(words), pace: pace.words(done, total, known) };
      if (bar === undefined) {
        if (done >= total) return;
        standing?.stop();
        // Formatted here, so that the first frame is as whole as the last, and none is wider than the terminal.
        const format = (_: unknown, { value, total: all }: { value: number; total: number }, shown: typeof line) =>
          barLine(title, value, all, shown.pace, shown.words, process.stderr.columns || 80);
        bar = new SingleBar({ stream: process.stderr, hideCursor: true, clearOnComplete: true, fps: 10, format });
        standing = { stop };
        bar.start(total, done, line);
      }
      bar.setTotal(total);
      bar.update(done, line);
      if (done >= total) stop();
    },
    note(line) {
      stop();
      process.stderr.write(`${printable(line)}\n`);
    },
    stop,
  };
}

/** `title ████████░░░░ 42 % · 0.51 GB/s, 12 s left · words`, cut to the terminal's width. */
export function barLine(
  title: string,
  done: number,
  total: number,
  pace: string,
  words: string,
  columns: number,
): string {
  const share = total === 0 ? 1 : Math.min(1, done / total);
  const filled = Math.round(share * BAR_WIDTH);
  const bar = "█".repeat(filled) + "░".repeat(BAR_WIDTH - filled);
  const parts = [`${title} ${bar} ${Math.floor(100 * share)} %`, pace, words].filter((part) => part !== "");
  const line = [...parts.join(" · ")];
  return line.length < columns ? line.join("") : `${line.slice(0, Math.max(columns - 2, 1)).join("")}…`;
}

const BAR_WIDTH = 24;

function lineProgress(title: string, unit: Unit): Progress {
  const pace = new Pace(unit);
  let lastLine = performance.now() - LINE_EVERY_MS + PATIENCE_MS;
  return {
    update(done, total, words = "", known = undefined) {
      const now = performance.now();
      const shown = pace.words(done, total, known);
      if (now - lastLine < LINE_EVERY_MS || done >= total) return;
      lastLine = now;
      const percent = total === 0 ? 100 : Math.floor((100 * done) / total);
      const parts = [`${title} ${percent} %`, shown, printable(words)].filter((part) => part !== "");
      process.stderr.write(`${parts.join(", ")}\n`);
    },
    note(line) {
      process.stderr.write(`${printable(line)}\n`);
    },
    stop() {},
  };
}

/** The same as a function, for those who only count; `undefined` where nothing is shown. */
export function countedProgress(
  title: string,
  style: ProgressStyle,
  unit: Unit = "steps",
): ((done: number, total: number, words?: string) => void) | undefined {
  if ((style.quiet || style.json) && !tellsEvents()) return undefined;
  const progress = createProgress(title, style, unit);
  return (done, total, words) => progress.update(done, total, words);
}

/** The same for those who tell of each tensor before they begin it. */
export function tensorProgress(
  title: string,
  style: ProgressStyle,
): { readonly onTensor?: (name: string, position: number, total: number) => void } {
  const show = countedProgress(title, style, "tensors");
  if (show === undefined) return {};
  return { onTensor: (name, position, total) => show(position, total, `tensor ${position + 1} of ${total}: ${name}`) };
}

/** An estimate made earlier is a guess about how things get going, not about how they go on. */
const LEAST_SECONDS = 2;
const LEAST_SHARE = 0.02;
/** After so long even a small share tells something. */
const LONG_SECONDS = 15;
/** The pace is that of the last seconds: what went before (an earlier run, loading) says nothing about it. */
const MEMORY_SECONDS = 20;

/** Rate and time left, from what was done lately. */
class Pace {
  private readonly seen: { readonly seconds: number; readonly done: number }[] = [];
  private readonly began = performance.now() / 1000;

  constructor(private readonly unit: Unit) {}

  /** Empty until there is something to say. */
  words(done: number, total: number, known: string | undefined): string {
    if (known !== undefined) return known === "" ? "" : `about ${known} left`;
    const seconds = performance.now() / 1000;
    // Told of for the first time after a while, it was done meanwhile; told of at once, by an earlier run.
    if (this.seen.length === 0 && seconds - this.began > 1) this.seen.push({ seconds: this.began, done: 0 });
    this.seen.push({ seconds, done });
    while (this.seen.length > 2 && seconds - this.seen[1].seconds > MEMORY_SECONDS) this.seen.shift();
    const [first] = this.seen;
    const elapsed = seconds - first.seconds;
    const moved = done - first.done;
    if (elapsed < LEAST_SECONDS || moved <= 0) return "";
    const rate = moved / elapsed;
    const speed = this.speed(rate);
    if (moved < LEAST_SHARE * total && elapsed < LONG_SECONDS) return speed;
    const left = `about ${duration((total - done) / rate)} left`;
    return speed === "" ? left : `${speed}, ${left}`;
  }

  private speed(rate: number): string {
    if (this.unit === "bytes")
      return rate >= 1e7 ? `${(rate / 1e9).toFixed(2)} GB/s` : `${(rate / 1e6).toFixed(2)} MB/s`;
    if (this.unit === "tokens") return `${Math.round(rate).toLocaleString("en-US")} tokens/s`;
    return "";
  }
}

/** Seconds as people say them. */
export function duration(seconds: number): string {
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  if (seconds < 5_400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}
