/** Watches an answer for the texts that end it. What may still become one is held back. */
export class StopText {
  private held = "";
  /** A stop was met: nothing follows. */
  met = false;

  constructor(private readonly stops: readonly string[]) {}

  /** The part of the answer so far that may be shown. */
  push(piece: string): string {
    if (this.met) return "";
    const text = this.held + piece;
    let first = -1;
    for (const stop of this.stops) {
      const at = text.indexOf(stop);
      if (at >= 0 && (first < 0 || at < first)) first = at;
    }
    if (first >= 0) {
      this.met = true;
      this.held = "";
      return text.slice(0, first);
    }
    const keep = Math.max(0, ...this.stops.map((stop) => overlap(text, stop)));
    this.held = text.slice(text.length - keep);
    return text.slice(0, text.length - keep);
  }

  /** What was held back, once nothing more comes. */
  end(): string {
    const rest = this.held;
    this.held = "";
    return rest;
  }
}

/** How many characters at the end of `text` begin `stop`. */
function overlap(text: string, stop: string): number {
  for (let length = Math.min(text.length, stop.length - 1); length > 0; length--) {
    if (text.endsWith(stop.slice(0, length))) return length;
  }
  return 0;
}
