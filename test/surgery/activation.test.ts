import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { verify } from "../../dist/audit/verify.js";
import type { SurgeryEvent } from "../../dist/surgery/events.js";
import type { TensorRecord } from "../../dist/surgery/ledger.js";
import type { SurgeryOptions } from "../../dist/surgery/options.js";
import { LOAM } from "../shared.js";
import { temporaryFolder } from "../temporary.js";
import { filesOf, operateOn } from "./operate.js";

const hasEngine = existsSync(fileURLToPath(new URL("../../node_modules/onnxruntime-node", import.meta.url)));
if (!hasEngine) console.warn("onnxruntime-node is absent: tests of the activation flow are skipped");

const folder = temporaryFolder();
/** Two small projections a layer: enough for every step of the wiring, little enough to be quick. */
const OPTIONS: SurgeryOptions = {
  flow: "activation",
  include: "self_attn\\.[kv]_proj\\.weight",
  targetSparsity: 0.5,
  samples: 4,
  window: 32,
  workers: 0,
};

function tensorRecords(output: string): TensorRecord[] {
  return readFileSync(join(output, "physarium/ledger.jsonl"), "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as TensorRecord)
    .filter(({ kind, role }) => kind === "tensor" && role === "target");
}

describe.skipIf(!hasEngine)("surgery --flow activation", () => {
  const whole = join(folder, "whole");

  test("operates on every target, verifies, and records what its stages did", async () => {
    const { report } = await operateOn(LOAM, whole, OPTIONS);
    expect(report).toMatchObject({ flow: "activation", flow_version: "v2" });
    expect(report.totals.killed_of_target).toBeCloseTo(0.5, 3);
    const { differences } = await verify(whole, { donorPath: LOAM, workers: 0 });
    expect(differences).toEqual([]);
    const records = tensorRecords(whole);
    expect(records).toHaveLength(8);
    for (const { survivors_changed, stages } of records) {
      expect(survivors_changed).toBeGreaterThan(0);
      const errors = stages!.filter(({ stage }) => stage !== "anchor").map(({ relative_error }) => relative_error);
      expect(errors.at(-1)).toBeLessThan(errors[0]);
    }
  });

  test("a run stopped after a layer resumes to the same bytes, its finished tensors untouched", async () => {
    const output = join(folder, "stopped");
    const controller = new AbortController();
    const onEvent = (event: SurgeryEvent) => {
      if (event.event === "layer" && event.layer === 1) controller.abort();
    };
    await expect(operateOn(LOAM, output, OPTIONS, { onEvent, signal: controller.signal })).rejects.toMatchObject({
      code: "STOPPED",
    });
    expect(existsSync(output)).toBe(false);
    const before = tensorRecords(`${output}.partial`);
    expect(before).toHaveLength(4);
    await operateOn(LOAM, output, OPTIONS, { resume: true });
    expect(filesOf(output)).toEqual(filesOf(whole));
    const after = new Map(tensorRecords(output).map((record) => [record.name, record]));
    for (const record of before) expect(after.get(record.name)).toEqual(record);
  });

  test("another seed or target is another operation", async () => {
    await expect(operateOn(LOAM, whole, { ...OPTIONS, seed: 1 }, { resume: true })).rejects.toMatchObject({
      code: "USAGE_RESUME_MISMATCH",
      message: expect.stringContaining("activation"),
    });
  });

  test("without healing survivors keep the donor's bits", async () => {
    const output = join(folder, "unhealed");
    await operateOn(LOAM, output, { ...OPTIONS, targetSparsity: undefined, pattern: "2:4", heal: false });
    for (const { survivors_changed, sparsity } of tensorRecords(output))
      expect({ survivors_changed, sparsity }).toEqual({ survivors_changed: 0, sparsity: 0.5 });
    expect((await verify(output, { donorPath: LOAM, workers: 0 })).ok).toBe(true);
  });

  test("--beta, --n-iter and --block-size reach the flow", async () => {
    const one = { ...OPTIONS, include: "0.self_attn.v_proj", targetSparsity: undefined };
    const digestOf = async (name: string, more: SurgeryOptions) => {
      await operateOn(LOAM, join(folder, name), { ...one, ...more });
      return tensorRecords(join(folder, name))[0].digest;
    };
    const digests = await Promise.all([
      digestOf("as-is", {}),
      digestOf("beta", { beta: 1.7 }),
      digestOf("iterations", { nIter: 4 }),
      digestOf("tiles", { gram: "tile", blockSize: 64 }),
    ]);
    expect(new Set(digests).size).toBe(4);
  });

  test("what the forward pass cannot carry is refused before anything is written", async () => {
    const output = join(folder, "non-finite");
    await expect(operateOn(LOAM, output, { ...OPTIONS, allowNonFinite: true })).rejects.toMatchObject({
      code: "USAGE_PARAM",
      message: expect.stringContaining("--allow-non-finite"),
    });
    expect(existsSync(`${output}.partial`)).toBe(false);
  });

  test("options of v2 are refused for flows that look at weights alone", async () => {
    await expect(operateOn(LOAM, join(folder, "x"), { calibration: "book.txt" })).rejects.toMatchObject({
      code: "USAGE_PARAM",
    });
  });
});
