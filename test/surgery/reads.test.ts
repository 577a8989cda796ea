import { join } from "node:path";
import { expect, test } from "vitest";
import { openDonor } from "../../dist/checkpoint/donor.js";
import { operate } from "../../dist/surgery/operation.js";
import { checkOptions, type SurgeryOptions } from "../../dist/surgery/options.js";
import { planSurgery } from "../../dist/surgery/plan.js";
import { faultyFiles } from "../faults/faulty-files.js";
import { hasEngine, LOAM } from "../probe/engine-present.js";
import { temporaryFolder } from "../temporary.js";

const folder = temporaryFolder();
let runs = 0;

/** Operate on the donor, counting how often each of its bytes is read until the report is gathered. */
async function count(options: SurgeryOptions) {
  const reads: { path: string; begin: number; end: number }[] = [];
  let isCounting = true;
  const files = faultyFiles({
    limit: ({ operation, path, byteOffset = 0 }, _call, byteLength) => {
      if (isCounting && operation === "read") reads.push({ path, begin: byteOffset, end: byteOffset + byteLength });
      return byteLength;
    },
  });
  const plan = planSurgery(await openDonor(LOAM, files), checkOptions({ workers: 0, ...options }));
  await operate(plan, {
    outputPath: join(folder, `${runs++}`),
    files,
    onEvent: ({ event }) => {
      if (event === "finishing") isCounting = false;
    },
  });
  /** Bytes of each tensor that were read, over its length: 1 is once. */
  const times = new Map(["target", "carried"].map((role) => [role, new Set<number>()]));
  for (const { file, tensors } of plan.shards) {
    const here = reads.filter(({ path }) => path === join(LOAM, file));
    for (const { byteOffset, byteLength, role } of tensors) {
      const end = byteOffset + byteLength;
      const bytes = here.reduce(
        (sum, read) => sum + Math.max(0, Math.min(read.end, end) - Math.max(read.begin, byteOffset)),
        0,
      );
      times.get(role)!.add(bytes / byteLength);
    }
  }
  // Once to open it, once to see that the output is none of its files.
  const listed = files.calls.filter(({ operation, path }) => operation === "readdir" && path === LOAM).length;
  // The eight bytes that say how long a header is.
  const headers = reads.filter(({ path, begin, end }) => path.startsWith(LOAM) && begin === 0 && end === 8).length;
  return {
    targets: [...times.get("target")!],
    carried: [...times.get("carried")!],
    listed,
    headers: headers / plan.shards.length,
  };
}

test("v1 opens once and reads every tensor once; a search reads the targets once more", async () => {
  expect(await count({})).toEqual({ targets: [1], carried: [1], listed: 2, headers: 1 });
  expect(await count({ targetSparsity: 0.5 })).toEqual({ targets: [2], carried: [1], listed: 2, headers: 1 });
});

test.skipIf(!hasEngine)("v2 opens once and reads every target once, beside the engine's mapping", async () => {
  const v2: SurgeryOptions = { flow: "activation", targetSparsity: 0.5, samples: 2, window: 32, include: "[kv]_proj" };
  expect(await count(v2)).toEqual({ targets: [1], carried: [1], listed: 2, headers: 1 });
});
