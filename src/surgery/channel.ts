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
  private readonly waiting: { give(thing: Thing): void; refuse(error: unknown): void }[] = [];
  private closed: { readonly error: unknown } | undefined;

  constructor(private readonly free: Thing[]) {}

  take(): Promise<Thing> {
    if (this.closed !== undefined) return Promise.reject(this.closed.error);
    const thing = this.free.pop();
    if (thing !== undefined) return Promise.resolve(thing);
    return new Promise((give, refuse) => this.waiting.push({ give, refuse }));
  }

  giveBack(thing: Thing): void {
    const next = this.waiting.shift();
    if (next === undefined) this.free.push(thing);
    else next.give(thing);
  }

  /** Whoever waits, or comes now, gets `error`. */
  close(error: unknown): void {
    this.closed ??= { error };
    for (const { refuse } of this.waiting.splice(0)) refuse(error);
  }
}
