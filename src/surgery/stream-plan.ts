import type { Donor } from "../checkpoint/donor.js";
import type { CheckedOptions } from "./options.js";
import { MEMORY_LIMIT, type Plan, planSurgery } from "./plan.js";
import { MAX_RANGE_BYTES, rangesOf } from "./stream-ranges.js";

/** Two come over the wire while one is operated on. */
export const BUFFERS = 3;

/** The largest range of a plan: what a buffer must hold. */
export function largestRange({ shards, options }: Plan): number {
  let largest = 0;
  for (const shard of shards) {
    for (const { begin, end } of rangesOf(shard, options.params.blockSize, 0)) largest = Math.max(largest, end - begin);
  }
  return largest;
}

/** Why an operation needs the donor more than once, in words; `undefined` where one pass is all. */
export function needsDonorTwice(options: CheckedOptions, plan?: Plan): string | undefined {
  if (options.activation !== undefined) return `--flow ${options.flow} runs the donor`;
  if (options.targetSparsity !== undefined) return "--target-sparsity reads every target twice";
  if (plan !== undefined && largestRange(plan) > MAX_RANGE_BYTES) {
    return `bands of --block-size ${options.params.blockSize} pass the kernels several times`;
  }
  return undefined;
}

/** The plan of a streamed operation: as many workers as memory leaves beside what is held of the wire. */
export function planStream(donor: Donor, options: CheckedOptions): Plan {
  const plan = planSurgery(donor, options);
  const held = BUFFERS * largestRange(plan);
  const { workers, peakByteLength } = plan.memory;
  const perWorker =
    (peakByteLength - planSurgery(donor, { ...options, workers: 0 }).memory.peakByteLength) / Math.max(1, workers - 1);
  let fitting = workers;
  while (fitting > 1 && peakByteLength - (workers - fitting) * perWorker + held > MEMORY_LIMIT) fitting--;
  return options.workers !== undefined || fitting === workers
    ? plan
    : planSurgery(donor, { ...options, workers: fitting });
}
