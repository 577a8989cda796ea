import { isGramFile, StoredGrams } from "../calibration/grams/stored-grams.js";
import type { Donor } from "../checkpoint/donor.js";
import { isPhysariumError, PhysariumError } from "../errors.js";
import type { PruneMethod } from "../methods/method.js";
import { refuseWithoutGradients } from "../probe/forward/layer-gradients.js";
import type { LayerRunner } from "../probe/forward/layer-runner.js";
import type { ComparisonOptions } from "./options.js";

/**
 * The methods that this donor and calibration can have. Throws `DONOR_ARCHITECTURE`, `USAGE_CALIBRATION` where weights
 * are to move by gradient and cannot, or means are asked for that are not there.
 */
export function possibleMethods(runner: LayerRunner, options: ComparisonOptions): readonly PruneMethod[] {
  const { methods, thenMatched, distil, whatCan, onProgress } = options;
  if (distil !== undefined) refuseGradients(runner, options, "--distil", "pull back");
  if (thenMatched) refuseGradients(runner, options, "--then matched", "match");
  const refusals: [(method: PruneMethod) => boolean | undefined, (names: string) => void][] = [
    [({ matches }) => matches, (names) => refuseGradients(runner, options, names, "match")],
    [({ needsMean }) => needsMean, (names) => refuseMeans(options, names)],
  ];
  let possible = methods;
  for (const [concerns, refuse] of refusals) {
    const names = possible.filter(concerns).map(({ name }) => name);
    if (names.length === 0) continue;
    try {
      refuse(names.join(", "));
    } catch (error) {
      if (!whatCan || !isPhysariumError(error)) throw error;
      onProgress?.(`left out: ${names.join(", ")}: ${error.message}`);
      possible = possible.filter((method) => !concerns(method));
    }
  }
  return possible;
}

function refuseMeans({ calibration }: ComparisonOptions, names: string): void {
  if (!isGramFile(calibration)) return;
  throw new PhysariumError(
    "USAGE_CALIBRATION",
    `${calibration}: ${names} asks for the inputs' means, and a file of Grams holds none; give a text`,
  );
}

function refuseGradients(
  runner: LayerRunner,
  { calibration }: ComparisonOptions,
  what: string,
  kind: "match" | "pull back",
): void {
  if (isGramFile(calibration)) {
    throw new PhysariumError(
      "USAGE_CALIBRATION",
      `${calibration}: ${what} runs the calibration text through every layer, and a file of Grams holds none; give a ` +
        "text",
    );
  }
  refuseWithoutGradients(runner, () => true, kind);
}

/** Grams in place of a calibration text. Throws `USAGE_CALIBRATION` where a method asks for more than they hold. */
export async function openGrams(path: string, donor: Donor, options: ComparisonOptions): Promise<StoredGrams> {
  if (options.allocation !== undefined) {
    throw new PhysariumError("USAGE_CALIBRATION", `${path}: an allocation runs a text, and a file of Grams holds none`);
  }
  const grams = await StoredGrams.open(path, donor);
  const needy = options.methods.filter(({ needs }) => needs === "gram" || needs === "both").map(({ name }) => name);
  if (needy.length > 0) await grams.requireWhole(needy.join(", "));
  return grams;
}
