/** Sizes and times as organ_farm.json writes them. */

const SIZE = /^([0-9]+(?:\.[0-9]+)?) ?(?:([KMGT])(i)?)?B$/;
const POWERS = ["K", "M", "G", "T"];
const DURATION = /^([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)$/;
const MILLISECONDS: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 };

/** Bytes of `16GiB`, `8 GB`, `500MB` or a plain number; `undefined` for what is none of these. */
export function parseSize(text: string | number): number | undefined {
  if (typeof text === "number") return Number.isSafeInteger(text) && text >= 0 ? text : undefined;
  if (/^[0-9]+$/.test(text)) return parseSize(Number(text));
  const match = SIZE.exec(text);
  if (match === null) return undefined;
  const [, digits, prefix, binary] = match;
  const unit = prefix === undefined ? 1 : (binary === undefined ? 1000 : 1024) ** (POWERS.indexOf(prefix) + 1);
  return Math.floor(Number(digits) * unit);
}

/** Milliseconds of `500ms`, `30s`, `10m`, `2h`; `undefined` for what is none of these. */
export function parseDuration(text: string): number | undefined {
  const match = DURATION.exec(text);
  return match === null ? undefined : Number(match[1]) * MILLISECONDS[match[2]];
}

/** Bytes for people: `7.62 GiB`. */
export function sizeWords(bytes: number): string {
  let value = bytes;
  let unit = "B";
  for (const next of ["KiB", "MiB", "GiB", "TiB"]) {
    if (Math.abs(value) < 1024) break;
    value /= 1024;
    unit = next;
  }
  return `${unit === "B" ? value : value.toFixed(value < 10 ? 2 : 1)} ${unit}`;
}
