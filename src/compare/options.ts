import type { Allocation } from "../calibration/allocation.js";
import type { PipelineOptions } from "../calibration/pipeline.js";
import type { MatchOptions } from "../matching/match-layer.js";
import type { PruneMethod, PruneTarget } from "../methods/method.js";
import type { ProtocolOptions } from "../probe/text/protocols.js";
import type { ComparisonRecord, ComparisonRow } from "../record/comparison.js";
import type { Behind } from "./rows.js";

/** What is compared on which texts: methods, sparsities and patterns, how long the calibration is. */
export interface ComparisonOptions extends Behind {
  /** Text to score. */
  readonly text: string;
  /**
   * Text to calibrate on; the same path for a text that serves both, each part of it for one. Or a file of Grams
   * (`.safetensors`), which serves methods with one
   * stream. Without it the donor writes its own text.
   */
  readonly calibration?: string;
  readonly methods: readonly PruneMethod[];
  /** Leave out, with a word, a method that moves weights by gradient where that cannot be; else it is refused. */
  readonly whatCan?: boolean;
  readonly targets: readonly PruneTarget[];
  /** How both texts become sequences. */
  readonly protocol: ProtocolOptions;
  readonly samples: number;
  /** For experiments: use only so many of the samples. */
  readonly calibrate?: number;
  readonly seed: number;
  readonly minTokens?: number;
  readonly threads?: number;
  /** Where the products are computed; default `cpu`. */
  readonly device?: string;
  /** Budget of the comparison in bytes; default half of the machine's memory. */
  readonly memoryBytes?: number;
  /** For experiments: share a sparsity between tensors other than evenly. */
  readonly allocation?: Allocation;
  /** Greedy answers to so many prompts that the donor writes, beside the text; default none. */
  readonly answers?: number;
  /** For experiments: another way of matching. */
  readonly match?: Partial<MatchOptions>;
  /** For experiments: other ways of the pipeline. */
  readonly pipeline?: Pick<PipelineOptions, "gramOf" | "weighTokens">;
  /** What an earlier run finished: its rows are taken over. Made another way it is refused (`USAGE_OUTPUT`). */
  readonly earlier?: ComparisonRecord;
  /** Called with the record so far after every row, for whoever keeps it. */
  readonly onRow?: (record: ComparisonRecord, row: ComparisonRow, isEarlier: boolean) => void | Promise<void>;
  readonly onProgress?: (words: string) => void;
  readonly signal?: AbortSignal;
}
