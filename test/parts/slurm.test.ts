import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, test } from "vitest";

const TRIAL = fileURLToPath(new URL("../../scripts/slurm-trial.mjs", import.meta.url));
const { whyNot } = await import(new URL("../../scripts/slurm-one-node.mjs", import.meta.url).href);
const reason: string = whyNot();
if (reason !== "") console.warn(`no Slurm here, its test is skipped: ${reason}`);

test.skipIf(reason !== "")(
  "a real Slurm of one node: an array, kill -9 of a task, retry by index, a part that always fails, one machine's digests",
  async () => {
    const args = [TRIAL, "--megabytes", "12", "--parts", "5", "--rounds", "1", "--json"];
    const { stdout } = await promisify(execFile)(process.execPath, args);
    const { rounds, failing } = JSON.parse(stdout);
    expect(rounds).toHaveLength(1);
    expect(rounds[0]).toMatchObject({ part_count: 5, isEqual: true });
    // Both tries: the part failed, the others did not, and the job that joins went away without an output.
    const failed = { failed: 1, done: 4, part_count: 5, code: "DONOR_NON_FINITE" };
    expect(failing).toEqual({ states: [failed, failed], hasOutput: false });
  },
  // The scheduler has its own pace.
  400_000,
);
