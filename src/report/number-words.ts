/**
 * How the report writes numbers. Whatever is no finite number (a rate over nothing, a field that JSON made `null`)
 * reads "–".
 */

export const NONE = "–";

/** `1,450,103,613` */
export function count(value: number | null | undefined): string {
  return isNumber(value) ? Math.round(value).toLocaleString("en-US") : NONE;
}

/**
 * A fraction as `22.22 %`. What is not all is never printed as `100.00 %`, what is not nothing never as `0.00 %`: a
 * report that rounds the last missing tile away would be wrong about the one thing it is read for.
 */
export function percent(fraction: number | null | undefined, digits = 2): string {
  if (!isNumber(fraction)) return NONE;
  const unit = 10 ** -digits;
  const value = fraction * 100;
  if (value > 0 && value < unit / 2) return `< ${unit.toFixed(digits)} %`;
  if (value < 100 && value > 100 - unit / 2) return `> ${(100 - unit).toFixed(digits)} %`;
  return `${fixed(value, digits)} %`;
}

/** `16.32–45.92 %` */
export function percentRange(low: number | null | undefined, high: number | null | undefined, digits = 2): string {
  const [from, to] = [percent(low, digits), percent(high, digits)];
  if (from === to) return from;
  return /^\d/.test(from) && /^\d/.test(to) ? `${from.replace(" %", "")}–${to}` : `${from} to ${to}`;
}

/** A difference of two fractions in percentage points: `23.10`. */
export function points(difference: number, digits = 2): string {
  return isNumber(difference) ? fixed(Math.abs(difference) * 100, digits) : NONE;
}

/** `15.23 GB`, GB = 10^9 bytes. */
export function byteSize(bytes: number | null | undefined): string {
  if (!isNumber(bytes)) return NONE;
  for (const [unit, size] of [
    ["TB", 1e12],
    ["GB", 1e9],
    ["MB", 1e6],
    ["kB", 1e3],
  ] as const) {
    if (bytes >= size * 0.9995) return `${fixed(bytes / size, 2)} ${unit}`;
  }
  return `${count(bytes)} bytes`;
}

/** `0.42 s`, `12.3 s`, `2,775.6 s (46.3 min)` */
export function duration(seconds: number | null | undefined): string {
  if (!isNumber(seconds)) return NONE;
  if (seconds < 10) return `${fixed(seconds, 2)} s`;
  const text = `${fixed(seconds, 1)} s`;
  if (seconds < 120) return text;
  return seconds < 7200 ? `${text} (${fixed(seconds / 60, 1)} min)` : `${text} (${fixed(seconds / 3600, 2)} h)`;
}

/** With thousands separators and this many decimals. */
export function fixed(value: number | null | undefined, digits: number): string {
  if (!isNumber(value)) return NONE;
  return value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** `p` significant digits without an exponent where that reads well. */
export function significant(value: number | null | undefined, digits = 4): string {
  if (!isNumber(value)) return NONE;
  if (value === 0) return "0";
  const magnitude = Math.abs(value);
  return magnitude < 1e-4 || magnitude >= 1e7
    ? value.toExponential(digits - 1)
    : String(Number(value.toPrecision(digits)));
}

/** `1 layer`, `28 layers` */
export function counted(value: number, one: string, many = `${one}s`): string {
  return `${count(value)} ${value === 1 ? one : many}`;
}

/** `2026-04-27 06:12:09 UTC` */
export function timestamp(iso: string | null | undefined): string {
  const match = /^(\d{4}-\d{2}-\d{2})T(\d{2}:\d{2}:\d{2})(?:\.\d+)?Z$/.exec(iso ?? "");
  return match === null ? (iso ?? NONE) : `${match[1]} ${match[2]} UTC`;
}

export function isNumber(value: unknown): value is number {
  return typeof value === "number" && Number.isFinite(value);
}

/** A fraction of `part` in `whole`, or nothing where there is no whole. */
export function share(part: number, whole: number): number | undefined {
  return whole > 0 ? part / whole : undefined;
}
