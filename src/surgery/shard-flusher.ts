import type { FileLayer } from "../checkpoint/file-layer.js";
import { syncFile } from "./shard-files.js";

/**
 * Brings shards to the disk while the next ones are operated on, one after the other: what is written by the end is
 * then hardly more than the last of them.
 */
export class ShardFlusher {
  private last: Promise<void> = Promise.resolve();
  /** Of the first flush that failed: the system tells it once, and a second flush of that file may well succeed. */
  private failure: { readonly error: unknown } | undefined;
  private isOver = false;

  constructor(private readonly files: FileLayer) {}

  /** Nothing more is expected to be written to this file. */
  begin(path: string): void {
    this.last = this.last
      .then(() => (this.isOver ? undefined : syncFile(path, this.files)))
      .catch((error: unknown) => {
        this.failure ??= { error };
      });
  }

  /** The flush under way has ended, well or not; those that wait behind it are not begun. */
  settle(): Promise<void> {
    this.isOver = true;
    return this.last;
  }

  /** Everything in these files is on the disk, whatever was written since `begin`. Throws `IO_*`. */
  async finish(paths: readonly string[], checkSignal: () => void): Promise<void> {
    await this.settle();
    if (this.failure !== undefined) throw this.failure.error;
    for (const path of paths) {
      checkSignal();
      await syncFile(path, this.files);
    }
  }
}
