import { type Donor, elementCount } from "../checkpoint/donor.js";
import { PhysariumError } from "../errors.js";
import type { DecoderCoverage, DecoderTensor } from "../record/decoder-coverage.js";
import type { CheckedOptions } from "./options.js";
import type { PlannedShard, PlannedTensor } from "./plan.js";

export interface PlanWarning {
  readonly code: string;
  readonly message: string;
}

/**
 * A share of the decoder that stays as it is without being asked for: from here on it is worth a warning, not a line.
 */
const NOTABLE_SHARE = 0.01;

/** A planned tensor as coverage counts it; undefined for what is no matrix of the decoder. */
export function asDecoderTensor({ name, shape, role, reason, inDecoder }: PlannedTensor): DecoderTensor | undefined {
  if (!inDecoder) return undefined;
  return { name, weights: elementCount(shape), why: role === "target" ? undefined : reason };
}

/** What is to be said of a plan before it is carried out. */
export function planWarnings(donor: Donor, decoder: DecoderCoverage, shards: readonly PlannedShard[]): PlanWarning[] {
  const warnings: PlanWarning[] = [...donor.warnings];
  const { index, totalSize } = donor;
  if (index?.totalSize !== undefined && index.totalSize !== totalSize) {
    const stated = `the index states total_size ${index.totalSize}`;
    warnings.push({
      code: "WARN_TOTAL_SIZE",
      message: `${stated}, the tensors take ${totalSize} bytes; loaders do not mind`,
    });
  }
  if (!donor.sideFiles.some(({ file }) => file === "config.json")) {
    warnings.push({
      code: "WARN_NO_CONFIG",
      message: "the donor has no config.json; surgery does not need one, loaders do",
    });
  }
  for (const { pattern, tensors, share, why } of decoder.untouched) {
    if (share < NOTABLE_SHARE || /--(?:include|exclude)$/.test(why)) continue;
    warnings.push({
      code: "WARN_UNTOUCHED",
      message:
        `${tensors} × ${pattern}, ${(100 * share).toFixed(1)} % of the weights in the decoder's layers, stay as they ` +
        `are: ${why}`,
    });
  }
  const drafts = shards.flatMap(({ tensors }) =>
    tensors.filter(({ role, shape, reason }) => role === "carried" && shape.length >= 2 && /draft head/.test(reason)),
  );
  if (drafts.length > 0) {
    warnings.push({
      code: "WARN_DRAFT_HEAD",
      message:
        `${drafts.length} matrices (${drafts[0].name}, …) belong to a draft head and are carried over: it goes on ` +
        "guessing for the model as it was before surgery",
    });
  }
  return warnings;
}

/** A donor without a single target, in words. */
export function noTarget(donor: Donor, options: CheckedOptions): PhysariumError {
  const { quantMethod } = donor.structure.facts;
  if (quantMethod !== undefined && quantMethod !== "compressed-tensors") {
    return new PhysariumError(
      "DONOR_QUANTISED",
      `${donor.path}: config.json says that the model is quantised (${quantMethod}), and no tensor is a float ` +
        "matrix of a decoder layer; use the unquantised model",
      { quantMethod },
    );
  }
  const names = donor.shards.flatMap((shard) => shard.tensors.slice(0, 3).map(({ name }) => name)).slice(0, 3);
  const chosen = options.include !== undefined || options.exclude !== undefined;
  const advice = chosen
    ? "loosen --include or --exclude"
    : "name its matrices with --include, or see physarium plan for what each tensor is taken for";
  return new PhysariumError(
    "DONOR_NO_TARGET",
    `${donor.path}: none of its ${donor.tensorCount} tensors is a target (they look like ` +
      `${names.map((name) => `"${name}"`).join(", ")}); expected matrices in layers.N.…, h.N.… or blocks.N.…; ` +
      `${advice}`,
    { tensorCount: donor.tensorCount },
  );
}
