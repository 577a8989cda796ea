/** What waits for a body. */
export interface Queued {
  readonly priority: number;
  /** When it came, by the runtime's clock. */
  readonly cameAt: number;
}

/** Waiting so long lifts a request by one level of priority, so that nobody waits for ever. */
export const AGEING_MS = 10_000;

/** Bounded; first come first served within a priority; waiting counts. */
export class RequestQueue<T extends Queued> {
  private readonly items: T[] = [];

  constructor(readonly limit: number) {}

  get length(): number {
    return this.items.length;
  }

  get isFull(): boolean {
    return this.items.length >= this.limit;
  }

  push(item: T): void {
    this.items.push(item);
  }

  /** Back to where it was before others of its priority: it was served already, and lost. */
  putBack(item: T): void {
    this.items.unshift(item);
  }

  /** The one to serve next; it stays. */
  peek(now: number): T | undefined {
    let best: T | undefined;
    for (const item of this.items) {
      if (best === undefined || rankOf(item, now) > rankOf(best, now)) best = item;
    }
    return best;
  }

  take(now: number): T | undefined {
    const best = this.peek(now);
    if (best !== undefined) this.remove(best);
    return best;
  }

  remove(item: T): boolean {
    const at = this.items.indexOf(item);
    if (at >= 0) this.items.splice(at, 1);
    return at >= 0;
  }

  takeAll(): T[] {
    return this.items.splice(0);
  }
}

export function rankOf({ priority, cameAt }: Queued, now: number): number {
  return priority + (now - cameAt) / AGEING_MS;
}
