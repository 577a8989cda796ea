import type { FlowParams } from "../flow/params.js";
import type { Digester } from "../record/digest.js";
import type { ActivationRecord, Ledger, LedgerRecord, TensorRecord } from "../record/ledger.js";
import type { OnEvent } from "./events.js";
import type { PlannedTensor } from "./plan.js";
import type { ProgressTally } from "./progress-tally.js";
import type { TensorProgress } from "./tensor-progress.js";

/** A file that holds a shard's bytes from `firstByte` on. */
export interface OutputPlace {
  readonly path: string;
  readonly firstByte: number;
}

/**
 * What an operation lends the flow that it runs: where the output is built, what is done already, and where results
 * go.
 */
export interface FlowContext {
  /** The partial folder. */
  readonly folder: string;
  /** Where a tensor's bytes go, for flows that work tile by tile; without it into its shard in `folder`. */
  readonly placeOf?: (tensor: PlannedTensor) => OutputPlace;
  /** The final name, for messages. */
  readonly outputPath: string;
  /** What a stopped run recorded; absent for a new operation. */
  readonly stopped: Ledger | undefined;
  /** Tensors that are done, by name. */
  readonly records: ReadonlyMap<string, TensorRecord>;
  readonly digester: Digester;
  readonly progress: ProgressTally;
  readonly onEvent: OnEvent;
  readonly signal: AbortSignal | undefined;
  /** Put a record into the ledger. */
  append(record: LedgerRecord): Promise<void>;
  /** Record a tensor all of whose bytes are written. */
  finish(progress: TensorProgress, more?: ActivationRecord): Promise<void>;
  /** Record a tensor anew that was recorded before: its bytes are others now. Absent where each is written once. */
  renew?(progress: TensorProgress, more: ActivationRecord): Promise<void>;
}

/**
 * One kind of flow at work on one plan. An operation knows nothing of a flow but this; `open-flow.ts` chooses it.
 *
 * Calls come in this order: `check` (when resuming), `prepare`, `operate`, `close`. Each holds what memory and threads
 * it needs until it returns.
 */
export interface FlowRun {
  /** Codes of the warnings that it puts into the ledger itself: a resumed run keeps them. */
  readonly warns: readonly string[];
  /** Digest tensors as they stand in the output; `checked` is told of each. */
  check(
    tensors: Iterable<PlannedTensor>,
    context: FlowContext,
    checked: (progress: TensorProgress) => void,
  ): Promise<void>;
  /** Records of its own that still hold, once `check` has looked: they go into the resumed ledger. */
  keep?(): readonly LedgerRecord[];
  /** What comes before the first weight is written: searching, refusing. Returns the parameters in force. */
  prepare(context: FlowContext): Promise<FlowParams>;
  /**
   * Operate on targets and carry the others over, byte for byte. Each shard stands at full length when its first
   * tensor comes.
   */
  operate(tensors: AsyncIterable<PlannedTensor>, params: FlowParams, context: FlowContext): Promise<void>;
  close(): Promise<void>;
}
