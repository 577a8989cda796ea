/** What some put in and one takes out, in order; ended or failed by those who put in. */
export class Channel<Item> {
  private readonly items: Item[] = [];
  private ended = false;
  private failure: { readonly error: unknown } | undefined;
  private wake = () => {};

  push(item: Item): void {
    this.items.push(item);
    this.wake();
  }

  end(): void {
    this.ended = true;
    this.wake();
  }

  fail(error: unknown): void {
    this.failure ??= { error };
    this.wake();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Item> {
    for (;;) {
      if (this.failure !== undefined) throw this.failure.error;
      const item = this.items.shift();
      if (item !== undefined) yield item;
      else if (this.ended) return;
      else
        await new Promise<void>((resolve) => {
          this.wake = resolve;
        });
    }
  }
}

/** A few things lent out in turn; whoever finds none waits. */
export class Lending<Thing> {
  private readonly waiting: ((thing: Thing) => void)[] = [];

  constructor(private readonly free: Thing[]) {}

  take(signal: AbortSignal): Promise<Thing> {
    const thing = this.free.pop();
    if (thing !== undefined) return Promise.resolve(thing);
    if (signal.aborted) return Promise.reject(signal.reason);
    return new Promise((resolve, reject) => {
      this.waiting.push(resolve);
      signal.addEventListener("abort", () => reject(signal.reason), { once: true });
    });
  }

  giveBack(thing: Thing): void {
    const next = this.waiting.shift();
    if (next === undefined) this.free.push(thing);
    else next(thing);
  }
}
