/** The smallest kept value when the `count` largest are kept, and how many values equal to it are among them. */
export interface Cut {
  readonly value: number;
  readonly ties: number;
}

/**
 * Where the `count` largest of `values` end (1 ≤ count ≤ length), in linear time on average (Hoare's selection, median
 * of three, no random choice: the same values give the same work). NaN is not expected.
 *
 * scratch  overwritten, at least as long; spares the allocation where many rows are cut
 */
export function cutAfterRank(values: Float32Array, count: number, scratch?: Float32Array): Cut {
  const pool = scratch ?? new Float32Array(values.length);
  pool.set(values);
  const target = count - 1;
  let low = 0;
  let high = values.length - 1;
  while (low < high) {
    const a = pool[low];
    const b = pool[(low + high) >>> 1];
    const c = pool[high];
    const pivot = Math.max(Math.min(a, b), Math.min(Math.max(a, b), c));
    let left = low;
    let right = high;
    while (left <= right) {
      while (pool[left] > pivot) left++;
      while (pool[right] < pivot) right--;
      if (left <= right) {
        const swapped = pool[left];
        pool[left++] = pool[right];
        pool[right--] = swapped;
      }
    }
    if (target <= right) high = right;
    else if (target >= left) low = left;
    else break;
  }
  const value = pool[target];
  let above = 0;
  for (let at = 0; at < values.length; at++) if (values[at] > value) above++;
  return { value, ties: count - above };
}
