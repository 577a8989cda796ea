/** Deal items out in their order, each into the bin that weighs least so far; bins that stay empty are left out. */
export function heapBins<T>(items: readonly T[], weightOf: (item: T) => number, count: number): T[][] {
  // A binary heap by weight, then by number, so that the same items always fall into the same bins.
  const heap = Array.from({ length: Math.min(count, items.length) }, (_, bin) => ({
    bin,
    weight: 0,
    items: [] as T[],
  }));
  const isBefore = (a: number, b: number) =>
    heap[a].weight < heap[b].weight || (heap[a].weight === heap[b].weight && heap[a].bin < heap[b].bin);
  for (const item of items) {
    heap[0].items.push(item);
    heap[0].weight += weightOf(item);
    for (let at = 0; ; ) {
      let least = at;
      for (const child of [2 * at + 1, 2 * at + 2]) if (child < heap.length && isBefore(child, least)) least = child;
      if (least === at) break;
      [heap[at], heap[least]] = [heap[least], heap[at]];
      at = least;
    }
  }
  return heap.sort((a, b) => a.bin - b.bin).flatMap(({ items }) => (items.length === 0 ? [] : [items]));
}
