import { type FileLayer, nodeFiles } from "../checkpoint/file-layer.js";
import { PhysariumError } from "../errors.js";
import { isLocal } from "./donor-files.js";
import type { FlowRun } from "./flow-run.js";
import type { Plan } from "./plan.js";
import { StreamFlow } from "./stream-flow.js";
import { needsDonorTwice } from "./stream-plan.js";
import { TileFlow } from "./tile-flow.js";

/**
 * The flow that a plan asks for, with everything refused that it can refuse before anything is written. Throws
 * `USAGE_*`, `DONOR_*`.
 */
export async function openFlow(plan: Plan, files: FileLayer = nodeFiles, signal?: AbortSignal): Promise<FlowRun> {
  const { activation } = plan.options;
  if (!isLocal(plan)) {
    const reason = needsDonorTwice(plan.options, plan);
    if (reason === undefined) return new StreamFlow(plan, files);
    throw new PhysariumError(
      "USAGE_STREAM",
      `${plan.donor.path}: ${reason}, so it cannot be streamed; fetch the donor and operate on its folder`,
    );
  }
  if (activation === undefined) return new TileFlow(plan, files);
  // Loaded on demand: no other flow needs the forward pass.
  const { LayerFlow } = await import("./layer-flow.js");
  return LayerFlow.open(plan, activation, files, signal);
}
