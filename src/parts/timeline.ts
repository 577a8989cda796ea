import type { PartsNumbers } from "../record/parts.js";
import type { DonePart } from "./manifest.js";

/** Who did what, and when: a section of the report. */
export function partsNumbers(done: readonly DonePart[], joinSeconds: number): PartsNumbers {
  const times = done.flatMap(({ started_at, ended_at }) => [Date.parse(started_at), Date.parse(ended_at)]);
  const first = times.reduce((least, time) => Math.min(least, time), Infinity);
  const last = times.reduce((most, time) => Math.max(most, time), 0);
  return {
    part_count: done.length,
    byte_length: done.reduce((sum, { byte_length }) => sum + byte_length, 0),
    seconds: Math.max(0, last - first) / 1000,
    busy_seconds: done.reduce((sum, { seconds }) => sum + seconds, 0),
    join_seconds: joinSeconds,
    parts: done.map(({ part, host, started_at, ended_at, seconds, byte_length, resumed_tensors }) => ({
      part,
      host,
      started_at,
      ended_at,
      seconds,
      byte_length,
      resumed_tensors,
    })),
  };
}
