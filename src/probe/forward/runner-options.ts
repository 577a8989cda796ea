import type { Engine, EngineOptions } from "../../engine/session.js";
import { defaultMemoryBytes } from "../memory.js";
import type { Weights } from "./weights.js";

/** How a model is run. */
export interface RunnerOptions extends EngineOptions {
  /** Share an engine already open; `device` and `threads` are then its own. */
  readonly engine?: Engine;
  /**
   * What f32 copies of weights may take, in bytes; default half of the machine's memory. Over it the weights stay
   * mapped.
   */
  readonly memoryBytes?: number;
  /**
   * What is to come: with few tokens casting the weights anew in each run is cheaper than keeping f32 copies. Default:
   * much.
   */
  readonly workload?: Workload;
}

export interface Workload {
  readonly runs: number;
  readonly tokens: number;
}

/** What stays in memory between two runs. */
export interface Keeping {
  /** f32 copies of the weights. */
  readonly copies: boolean;
  /** Open sessions; closed ones are built again where they are needed. */
  readonly sessions: boolean;
}

/** Decide from the memory, the device and the work to come. */
export function whatToKeep(weights: Weights, engine: Engine, options: RunnerOptions): Keeping {
  const copies = shouldKeepCopies(weights, engine, options);
  // A mapped session holds nothing of its own. What is read into one may lie there twice: in embedding and head.
  const held = (copies ? 4 * weights.elementCount : 0) + 2 * weights.byteLength;
  return { copies, sessions: weights.isMapped || held <= (options.memoryBytes ?? defaultMemoryBytes()) };
}

/**
 * Keep f32 copies where they fit and where they pay: making them costs about 8 ns a weight once (one thread casts, then
 * packs), casting in each run 0.4 ns, and products with copies are about 1.5 ps a weight and token faster (measured on
 * two cores; `bench/probe.mjs`).
 */
function shouldKeepCopies(weights: Weights, engine: Engine, options: RunnerOptions): boolean {
  // Other devices hold their own copies, and cannot cast BF16.
  if (engine.device !== "cpu") return true;
  const budget = options.memoryBytes ?? defaultMemoryBytes();
  if (4 * weights.elementCount > budget) return false;
  const { runs, tokens } = options.workload ?? { runs: Infinity, tokens: Infinity };
  return 0.4 * runs + 1.5e-3 * tokens > 8;
}
