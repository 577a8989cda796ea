/** Part numbers as people and schedulers write them: `0-3,7,9-11`. */
export function rangesOf(sorted: readonly number[]): string {
  const ranges: string[] = [];
  for (let at = 0; at < sorted.length; ) {
    let end = at;
    while (end + 1 < sorted.length && sorted[end + 1] === sorted[end] + 1) end++;
    ranges.push(end === at ? `${sorted[at]}` : `${sorted[at]}-${sorted[end]}`);
    at = end + 1;
  }
  return ranges.join(",");
}

/** The same for a sentence: no more than it can bear. */
export function fewOf(sorted: readonly number[]): string {
  const text = rangesOf(sorted);
  return text.length <= 120 ? text : `${text.slice(0, text.lastIndexOf(",", 120))}, …`;
}
