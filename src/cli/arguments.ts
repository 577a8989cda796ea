import { InvalidArgumentError } from "commander";
import { MAX_THREADS } from "../engine/runtime.js";

/** Parsers of option values; commander turns what they throw into a usage error that names the flag. */

export function toNumber(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value)) throw new InvalidArgumentError("Expected a number.");
  return value;
}

export function toInteger(text: string): number {
  const value = toNumber(text);
  if (!Number.isInteger(value)) throw new InvalidArgumentError("Expected a whole number.");
  return value;
}

export function toCount(text: string): number {
  const value = toInteger(text);
  if (value < 1) throw new InvalidArgumentError("Expected a whole number of at least 1.");
  return value;
}

export function toThreads(text: string): number {
  const value = toCount(text);
  if (value > MAX_THREADS) throw new InvalidArgumentError(`Expected a whole number from 1 to ${MAX_THREADS}.`);
  return value;
}

/** More threads than any machine's memory feeds are a slip. */
const MAX_WORKERS = 256;

export function toWorkers(text: string): number {
  const value = toInteger(text);
  if (value >= 0 && value <= MAX_WORKERS) return value;
  throw new InvalidArgumentError(`Expected a whole number from 0 to ${MAX_WORKERS}.`);
}

/** GiB, more than none. */
export function toGibibytes(text: string): number {
  const value = toNumber(text);
  if (!(value > 0)) throw new InvalidArgumentError("Expected more than 0 GiB.");
  return value;
}
