import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { openDonor } from "../../dist/checkpoint/donor.js";
import { type OperateOptions, type OperationResult, operate } from "../../dist/surgery/operation.js";
import { checkOptions, type SurgeryOptions } from "../../dist/surgery/options.js";
import { planSurgery } from "../../dist/surgery/plan.js";

/** Open, plan and operate in one go. */
export async function operateOn(
  donorPath: string,
  outputPath: string,
  options: SurgeryOptions = {},
  run: Partial<OperateOptions> = {},
): Promise<OperationResult> {
  const plan = planSurgery(await openDonor(donorPath), checkOptions(options));
  return operate(plan, { outputPath, ...run });
}

/** Digests of every file outside `physarium/`, by name. */
export function filesOf(folder: string): Map<string, string> {
  return new Map(
    readdirSync(folder)
      .filter((name) => name !== "physarium")
      .sort()
      .map((name) => [
        name,
        createHash("sha256")
          .update(readFileSync(join(folder, name)))
          .digest("hex"),
      ]),
  );
}
