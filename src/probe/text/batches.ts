/** Group items of one length, in their order, into batches of about `tokens` tokens. */
export function batchesOf<T>(items: readonly T[], lengthOf: (item: T) => number, tokens: number): T[][] {
  const byLength = new Map<number, T[]>();
  for (const item of items) {
    const group = byLength.get(lengthOf(item)) ?? [];
    group.push(item);
    byLength.set(lengthOf(item), group);
  }
  const batches: T[][] = [];
  for (const [length, group] of byLength) {
    const size = Math.max(1, Math.floor(tokens / length));
    for (let start = 0; start < group.length; start += size) batches.push(group.slice(start, start + size));
  }
  return batches;
}
