import type { ShardRecord, TensorRecord } from "../record/ledger.js";
import type { Plan } from "./plan.js";

/** Records each shard's end in the order of the run, although pieces of the next shard may be in flight by then. */
export class ShardBoundaries {
  readonly headerDigests = new Map<string, string>();
  private next = 0;
  private killed = 0;
  private lastMs = performance.now();

  constructor(
    private readonly plan: Plan,
    private readonly remaining: ReadonlyMap<string, number>,
    private readonly records: ReadonlyMap<string, TensorRecord>,
    private readonly done: Map<string, ShardRecord>,
    private readonly onBoundary: (record: ShardRecord) => Promise<void>,
  ) {}

  async pass(): Promise<void> {
    for (;;) {
      const shard = this.plan.shards[this.next];
      const headerDigest = shard === undefined ? undefined : this.headerDigests.get(shard.file);
      if (shard === undefined || headerDigest === undefined || this.remaining.get(shard.file) !== 0) return;
      const order = ++this.next;
      for (const { name } of shard.tensors) this.killed += this.records.get(name)?.killed ?? 0;
      const now = performance.now();
      const seconds = (now - this.lastMs) / 1000;
      this.lastMs = now;
      if (this.done.has(shard.file)) continue;
      const record: ShardRecord = {
        kind: "shard",
        at: new Date().toISOString(),
        file: shard.file,
        order,
        seconds,
        killed_cumulative: this.killed,
        byte_length: shard.byteLength,
        header_digest: headerDigest,
      };
      this.done.set(shard.file, record);
      await this.onBoundary(record);
    }
  }
}
