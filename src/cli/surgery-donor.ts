import { resolve } from "node:path";
import { PhysariumError } from "../errors.js";
import { isHubAddress } from "../hub/address.js";
import { isOffline } from "../hub/environment.js";
import { WIRE_BYTES, withLoadWarnings } from "../probe/load-warnings.js";
import { openForSurgery } from "../surgery/open-for-surgery.js";
import type { CheckedOptions } from "../surgery/options.js";
import { type Plan, planSurgery } from "../surgery/plan.js";
import { needsDonorTwice, planStream } from "../surgery/stream-plan.js";
import { folderArgument } from "./model-argument.js";
import type { ProgressStyle } from "./progress.js";

interface Flags extends ProgressStyle {
  readonly stream?: boolean;
  readonly eval?: string;
}

/**
 * The plan for a donor as it was given: in its folder, in the cache, or with `--stream` where it lies on the Hub. What
 * needs the donor twice says so and goes through the cache.
 */
export async function planFor(
  given: string,
  options: CheckedOptions,
  flags: Flags,
  signal: AbortSignal,
  note: (message: string) => void,
): Promise<Plan> {
  const cached = async () => planSurgery(await openForSurgery(resolve(await folderArgument(given, flags))), options);
  if (!flags.stream) return cached();
  if (!isHubAddress(given)) {
    throw new PhysariumError("USAGE_STREAM", `${given}: --stream is for donors on the Hub, as hf://org/name`);
  }
  // Nothing may be asked: the cache, or nothing.
  if (isOffline()) return cached();
  const cacheBecause = (reason: string): Promise<Plan> => {
    note(`--stream: ${reason}, so the donor is needed twice and goes through the cache`);
    return cached();
  };
  const reason = needsDonorTwice(options) ?? (flags.eval === undefined ? undefined : "--eval measures the donor, too");
  if (reason !== undefined) return cacheBecause(reason);
  const { openOverTheWire } = await import("./hub-model.js");
  const donor = await withLoadWarnings(await openOverTheWire(given, signal, note), WIRE_BYTES);
  const plan = planStream(donor, options);
  const other = needsDonorTwice(options, plan);
  return other === undefined ? plan : cacheBecause(other);
}
