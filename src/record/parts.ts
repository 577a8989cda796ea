/** How an output was made by several machines: a section of `surgery.json`. */
export interface PartsNumbers {
  readonly part_count: number;
  /** Of all parts: shards with their headers. */
  readonly byte_length: number;
  /** From the beginning of the first part to the end of the last. */
  readonly seconds: number;
  /** Seconds of all parts together. */
  readonly busy_seconds: number;
  /** Checking, joining and writing the record. */
  readonly join_seconds: number;
  readonly parts: readonly {
    readonly part: number;
    readonly host: string;
    readonly started_at: string;
    readonly ended_at: string;
    readonly seconds: number;
    readonly byte_length: number;
    readonly resumed_tensors: number;
  }[];
}
