import { PhysariumError } from "../../errors.js";
import { cutAfterRank } from "./rank.js";
import { refreshPressure, type TubeRows } from "./tube-rows.js";

/** N living of every M consecutive inputs, as hardware wants it: `2:4` keeps 2 of 4. */
export interface Pattern {
  readonly keep: number;
  readonly of: number;
}

/** `2:4` as typed. Throws `USAGE_PATTERN`. */
export function parsePattern(text: string): Pattern {
  const match = /^(\d+):(\d+)$/.exec(text);
  const [keep, of] = match === null ? [0, 0] : [Number(match[1]), Number(match[2])];
  if (keep > 0 && keep < of && of <= 1024) return { keep, of };
  throw new PhysariumError(
    "USAGE_PATTERN",
    `--pattern ${text}: expected N:M with 0 < N < M ≤ 1024, as 2:4, which keeps 2 of each 4`,
    {
      pattern: text,
    },
  );
}

/**
 * Keep exactly `keep` tubes of each row, those of most flow |Q|; on a tie the lower column is kept. The dead are closed
 * (Q = 0); the pressure is not refreshed, `closeDead` does.
 */
export function selectPerRow(tubes: TubeRows, keep: ArrayLike<number>): void {
  const { rows, cols, flow, alive } = tubes;
  const size = new Float32Array(cols);
  for (let row = 0; row < rows; row++) {
    for (let col = 0; col < cols; col++) size[col] = Math.abs(flow[row * cols + col]);
    keepLargest(size, keep[row], alive.subarray(row * cols, (row + 1) * cols));
  }
}

/** Keep N of every M; a last group that is shorter keeps its share, rounded up. On a tie the lower column is kept. */
export function selectPattern(tubes: TubeRows, pattern: Pattern): void {
  const { rows, cols, flow, alive } = tubes;
  for (let row = 0; row < rows; row++) {
    for (let start = 0; start < cols; start += pattern.of) {
      const width = Math.min(pattern.of, cols - start);
      const keep = width === pattern.of ? pattern.keep : Math.ceil((width * pattern.keep) / pattern.of);
      const at = row * cols + start;
      keepLargest(flow.subarray(at, at + width).map(Math.abs), keep, alive.subarray(at, at + width));
    }
  }
}

/** The emergent dead: tubes whose conductance |Q|^β ended under D* = λ(β − 1). */
export function selectEmergent(tubes: TubeRows, load: Float64Array, beta: number): void {
  const { rows, cols, flow, alive } = tubes;
  for (let row = 0; row < rows; row++) {
    const threshold = (load[row] * (beta - 1)) ** (1 / beta);
    for (let at = row * cols, end = at + cols; at < end; at++) alive[at] = Math.abs(flow[at]) < threshold ? 0 : 1;
  }
}

/** Close what a selection left for dead and bring the pressure up to date (one product). */
export async function closeDead(tubes: TubeRows): Promise<void> {
  const { flow, alive } = tubes;
  for (let at = 0; at < flow.length; at++) if (alive[at] === 0) flow[at] = 0;
  await refreshPressure(tubes);
}

/** alive ← 1 for the `keep` largest of `size`, 0 for the others; on a tie the lower index is kept. */
export function keepLargest(size: Float32Array, keep: number, alive: Uint8Array): void {
  if (keep >= size.length) {
    alive.fill(1);
    return;
  }
  if (keep <= 0) {
    alive.fill(0);
    return;
  }
  const cut = cutAfterRank(size, keep);
  let ties = cut.ties;
  for (let at = 0; at < size.length; at++) {
    const isKept = size[at] > cut.value || (size[at] === cut.value && ties-- > 0);
    alive[at] = isKept ? 1 : 0;
  }
}
