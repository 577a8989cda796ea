/** What distilling the whole model did: every tensor that moved bears the same record, and counts as trained. */
export interface DistilRecord {
  readonly steps: number;
  /** Of the sequences that taught, each counted once; absent in records before 0.2. */
  readonly tokens?: number;
  /** Steps behind the look that did best, whose weights these are; records before 0.2 have none and kept all. */
  readonly kept?: number;
  /** Of the size of a tensor's weights, the share that a step moved them at most, in the end. */
  readonly rate: number;
  /** Mean KL(donor ‖ operated) over calibration that was held out, nats a token. */
  readonly held_out_before: number;
  readonly held_out_after: number;
}
