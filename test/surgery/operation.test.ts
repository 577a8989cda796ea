import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { verify } from "../../dist/audit/verify.js";
import { openDonor } from "../../dist/checkpoint/donor.js";
import { weightPatterns } from "../../dist/flow/magnitudes.js";
import { DEFAULT_PARAMS } from "../../dist/flow/params.js";
import { deadInMatrix } from "../../dist/flow/reference.js";
import { checkOptions } from "../../dist/surgery/options.js";
import { planSurgery } from "../../dist/surgery/plan.js";
import { gaussianTensor, type TensorFixture, toWeights, writeDonor } from "../donors.js";
import { hasShared, LOAM, SHARED } from "../shared.js";
import { temporaryFolder } from "../temporary.js";
import { filesOf, operateOn } from "./operate.js";

const folder = temporaryFolder();
let count = 0;
const fresh = () => join(folder, `out-${count++}`);

describe("loam", () => {
  const output = fresh();

  test("loses 22.4 % of its target weights, tensors between 21.7 and 22.8 %", async () => {
    const { report } = await operateOn(LOAM, output);
    expect(report.totals).toMatchObject({
      model_weights: 3_477_760,
      target_weights: 2_949_120,
      already_zero: 0,
      tensors: 28,
      failed_tensors: 0,
    });
    expect(report.totals.killed_of_target).toBeCloseTo(0.224, 3);
    expect(report.totals.killed_of_model).toBe(report.totals.killed / 3_477_760);
    expect(report.totals.min_sparsity).toBeCloseTo(0.217, 3);
    expect(report.totals.max_sparsity).toBeCloseTo(0.228, 3);
    expect(report.per_projection.map(({ projection, tensors }) => `${projection} ${tensors}`)).toEqual([
      "mlp.down_proj 4",
      "mlp.gate_proj 4",
      "mlp.up_proj 4",
      "self_attn.k_proj 4",
      "self_attn.o_proj 4",
      "self_attn.q_proj 4",
      "self_attn.v_proj 4",
    ]);
    expect(report.coverage).toEqual({
      tiles: 52,
      weights_processed: 2_949_120,
      weights_target: 2_949_120,
      fraction: 1,
    });
    expect(report.shards.map(({ order }) => order)).toEqual([1, 2, 3, 4]);
    expect(report.shards.at(-1)?.killed_cumulative).toBe(report.totals.killed);
  });

  test("gives the reference's mask in every target and the donor's bytes elsewhere", async () => {
    const donor = await openDonor(LOAM);
    const plan = planSurgery(donor, checkOptions({}));
    for (const shard of plan.shards) {
      const before = new Uint8Array(readFileSync(join(LOAM, shard.file)));
      const after = new Uint8Array(readFileSync(join(output, shard.file)));
      expect(Buffer.compare(before.subarray(0, shard.dataByteOffset), after.subarray(0, shard.dataByteOffset))).toBe(0);
      for (const { byteOffset, byteLength, target } of shard.tensors) {
        const [from, to] = [
          before.slice(byteOffset, byteOffset + byteLength),
          after.slice(byteOffset, byteOffset + byteLength),
        ];
        if (target !== undefined) {
          const weights = weightPatterns(from, target.dtype);
          const dead = deadInMatrix("magnitude", weights, target.dtype, target.rows, target.cols, DEFAULT_PARAMS);
          for (let i = 0; i < dead.length; i++) if (dead[i] === 1) weights[i] = 0;
        }
        expect(Buffer.compare(from, to)).toBe(0);
      }
    }
  });

  test("records every tensor once, shards and side files too, and nothing stands in the partial folder", () => {
    const records = readFileSync(join(output, "physarium/ledger.jsonl"), "utf8")
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as { kind: string; name?: string });
    const kinds = records.map(({ kind }) => kind);
    expect(kinds[0]).toBe("header");
    expect(kinds.at(-1)).toBe("finished");
    expect(new Set(records.filter(({ kind }) => kind === "tensor").map(({ name }) => name)).size).toBe(50);
    expect(kinds.filter((kind) => kind === "tensor")).toHaveLength(50);
    expect(kinds.filter((kind) => kind === "shard")).toHaveLength(4);
    expect(kinds.filter((kind) => kind === "side_file")).toHaveLength(6);
    expect(existsSync(`${output}.partial`)).toBe(false);
  });
});

describe("one result", () => {
  test.each(["magnitude", "balanced"] as const)("%s: whatever the worker count", async (flow) => {
    const reference = filesOf((await operateOn(LOAM, fresh(), { flow, workers: 0 })).outputPath);
    for (const workers of [1, 2, 3]) {
      expect(filesOf((await operateOn(LOAM, fresh(), { flow, workers })).outputPath)).toEqual(reference);
    }
  });

  test("bands that fit no slot are streamed to the same bytes and digest", async () => {
    // 3 MiB slots would need a plan of their own: a block of 65,536 rows makes the band the whole 28 MB matrix instead.
    const tensor = gaussianTensor("model.layers.0.mlp.up_proj.weight", "F32", [7_000, 1_024], 5);
    const donor = writeDonor(join(folder, "tall"), [[tensor]]);
    for (const flow of ["magnitude", "balanced"] as const) {
      const output = fresh();
      const { report } = await operateOn(donor, output, { flow, blockSize: 65_536, workers: 1 });
      const weights = weightPatterns(tensor.bytes.slice(), "F32");
      const dead = deadInMatrix(flow, weights, "F32", 7_000, 1_024, { ...DEFAULT_PARAMS, blockSize: 65_536 });
      expect(report.totals.killed).toBe(dead.reduce((sum, flag) => sum + flag, 0));
      expect((await verify(output, { donorPath: donor })).differences).toEqual([]);
    }
  });
});

describe("any small model", () => {
  const dtype = fc.constantFrom("BF16" as const, "F16" as const, "F32" as const);
  const shape = fc.oneof(
    fc.tuple(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 40 })),
    fc.tuple(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 9 })),
  );
  const kind = fc.constantFrom(
    "self_attn.q_proj.weight",
    "mlp.experts.gate_up_proj",
    "mlp.down_proj.weight",
    "input_layernorm.weight",
    "mlp.gate.weight",
  );

  test("any tensors, shards, block size and workers: verify finds nothing, and workers agree", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(kind, dtype, shape), { minLength: 1, maxLength: 8 }),
        fc.integer({ min: 1, max: 3 }),
        fc.integer({ min: 1, max: 50 }),
        fc.constantFrom("magnitude", "balanced"),
        async (specs, shardCount, blockSize, flow) => {
          const tensors: TensorFixture[] = specs.map(([name, type, dimensions], i) =>
            gaussianTensor(`model.layers.${i}.${name}`, type, dimensions, i),
          );
          tensors.push(gaussianTensor("model.layers.99.self_attn.o_proj.weight", "BF16", [9, 9], 99));
          const shards = Array.from({ length: Math.min(shardCount, tensors.length) }, (_, s) =>
            tensors.filter((_, i) => i % shardCount === s),
          );
          const donor = writeDonor(fresh(), shards);
          const output = fresh();
          await operateOn(donor, output, { blockSize, flow, workers: 0 });
          const { differences, coverage } = await verify(output, { donorPath: donor, parity: "reference", workers: 0 });
          expect(differences).toEqual([]);
          expect(coverage.fraction).toBe(1);
        },
      ),
      { numRuns: 40 },
    );
  });
});

describe("--target-sparsity", () => {
  test.each([
    ["magnitude", 0.1],
    ["magnitude", 0.5],
    ["magnitude", 0.9],
    ["balanced", 0.5],
  ] as const)("%s meets %d within 0.1 percentage point", async (flow, targetSparsity) => {
    const { report } = await operateOn(LOAM, fresh(), { flow, targetSparsity });
    expect(Math.abs(report.totals.killed_of_target - targetSparsity)).toBeLessThan(0.001);
    expect(report.params).toMatchObject({ target_sparsity: targetSparsity });
    expect(report.params.survival).toBeGreaterThan(0);
  });

  test("zeros that are there already count", async () => {
    const bytes = toWeights("F32", 10_000, (i) => (i % 5 === 0 ? 0 : 1 + i / 10_000));
    const donor = writeDonor(join(folder, "sparse"), [
      [{ name: "model.layers.0.mlp.up_proj.weight", dtype: "F32", shape: [100, 100], bytes }],
    ]);
    const { report } = await operateOn(donor, fresh(), { targetSparsity: 0.5 });
    expect(report.totals.already_zero).toBe(2_000);
    expect(Math.abs(report.per_tensor[0].sparsity - 0.5)).toBeLessThan(0.001);
  });

  test("where no rate is near, the nearest is taken and said", async () => {
    const bytes = toWeights("BF16", 256, (i) => (i % 2 === 0 ? 0.5 : -0.5));
    const donor = writeDonor(join(folder, "equal"), [
      [{ name: "model.layers.0.mlp.up_proj.weight", dtype: "BF16", shape: [16, 16], bytes }],
    ]);
    const searched: number[] = [];
    const onEvent = (event: { event: string; expected_sparsity?: number }) => {
      if (event.event === "searched") searched.push(event.expected_sparsity!);
    };
    expect((await operateOn(donor, fresh(), { targetSparsity: 0.3 }, { onEvent })).report.totals.killed).toBe(0);
    expect((await operateOn(donor, fresh(), { targetSparsity: 0.7 }, { onEvent })).report.totals.killed).toBe(256);
    expect(searched).toEqual([0, 1]);
  });
});

describe("weights that are no numbers", () => {
  const bytes = toWeights("BF16", 64 * 64, (i) => 1 + (i % 7));
  new DataView(bytes.buffer).setUint16((10 * 64 + 3) * 2, 0x7fc0, true);
  new DataView(bytes.buffer).setUint16((60 * 64 + 1) * 2, 0xff80, true);
  const donor = writeDonor(join(folder, "nan"), [
    [{ name: "model.layers.0.mlp.up_proj.weight", dtype: "BF16", shape: [64, 64], bytes }],
  ]);

  test("are refused by name and position, and nothing is left behind", async () => {
    const output = fresh();
    await expect(operateOn(donor, output)).rejects.toMatchObject({
      code: "DONOR_NON_FINITE",
      message: expect.stringMatching(
        /model\.safetensors: tensor "model\.layers\.0\.mlp\.up_proj\.weight" is NaN at row 10, column 3/,
      ),
    });
    expect(existsSync(output)).toBe(false);
    expect(existsSync(`${output}.partial`)).toBe(false);
  });

  test("stay untouched and out of the mean with --allow-non-finite", async () => {
    const output = fresh();
    await operateOn(donor, output, { allowNonFinite: true });
    const after = readFileSync(join(output, "model.safetensors"));
    const weights = new DataView(after.buffer, after.byteOffset + after.length - bytes.length);
    expect(weights.getUint16((10 * 64 + 3) * 2, true)).toBe(0x7fc0);
    expect(weights.getUint16((60 * 64 + 1) * 2, true)).toBe(0xff80);
    expect((await verify(output, { donorPath: donor, parity: "reference" })).ok).toBe(true);
  });
});

test("−0 in a target becomes +0 and counts as already zero", async () => {
  const bytes = toWeights("F16", 256, (i) => (i < 10 ? -0 : 1));
  const donor = writeDonor(join(folder, "minus-zero"), [
    [{ name: "model.layers.0.mlp.up_proj.weight", dtype: "F16", shape: [16, 16], bytes }],
  ]);
  const output = fresh();
  const { report } = await operateOn(donor, output);
  expect(report.totals).toMatchObject({ already_zero: 10, killed: 0 });
  expect(readFileSync(join(output, "model.safetensors")).subarray(-512, -492)).toEqual(Buffer.alloc(20));
  expect((await verify(output, { donorPath: donor })).differences).toEqual([]);
});

describe("the donor", () => {
  test("may be made of symlinks, as a hub cache is", async () => {
    const cache = join(folder, "models--org--name/snapshots/abc");
    mkdirSync(cache, { recursive: true });
    for (const name of readdirSync(LOAM)) symlinkSync(join(LOAM, name), join(cache, name));
    const output = fresh();
    const { report } = await operateOn(cache, output);
    expect(report.donor.name).toBe("org/name");
    expect((await verify(output, { donorPath: cache })).ok).toBe(true);
  });

  test("keeps side files byte for byte; other weights and sub-folders are left out and named", async () => {
    const donor = join(folder, "with-extras");
    cpSync(LOAM, donor, { recursive: true });
    mkdirSync(join(donor, "onnx"));
    writeFileSync(join(donor, "pytorch_model.bin"), "weights");
    writeFileSync(join(donor, "consolidated.safetensors"), "weights");
    writeFileSync(join(donor, "README.md"), "# loam\r\n\0");
    const output = fresh();
    const { report } = await operateOn(donor, output);
    expect(report.left_out.map(({ file }) => file).sort()).toEqual([
      "consolidated.safetensors",
      "onnx/",
      "pytorch_model.bin",
    ]);
    expect(readFileSync(join(output, "README.md"), "latin1")).toBe("# loam\r\n\0");
    expect(readdirSync(output)).not.toContain("pytorch_model.bin");
  });

  test("without a target is refused with what was found; plan still lists it", async () => {
    const path = writeDonor(join(folder, "no-target"), [[gaussianTensor("encoder.weight", "F32", [4, 4], 1)]]);
    await expect(operateOn(path, fresh())).rejects.toMatchObject({
      code: "DONOR_NO_TARGET",
      message: expect.stringContaining("encoder.weight"),
    });
    expect(planSurgery(await openDonor(path), checkOptions({}), true).targetTensors).toBe(0);
  });

  test.each([
    ["U32 weights", "model.layers.0.mlp.up_proj.weight", "U32"],
    ["GPTQ", "model.layers.0.mlp.up_proj.qweight", "I32"],
    ["FP8", "model.layers.0.mlp.up_proj.weight", "F8_E4M3"],
    ["scales", "model.layers.0.mlp.up_proj.weight_scale", "F32"],
    ["MXFP4", "model.layers.0.mlp.experts.down_proj_blocks", "U8"],
  ])("quantised (%s) is refused", async (_, name, dtype) => {
    const bytes = new Uint8Array(dtype === "U8" || dtype === "F8_E4M3" ? 4 : 16);
    const path = writeDonor(fresh(), [[{ name, dtype, shape: [2, 2], bytes }]]);
    await expect(operateOn(path, fresh())).rejects.toMatchObject({
      code: "DONOR_QUANTISED",
      message: expect.stringContaining(name),
    });
  });
});

describe.skipIf(!hasShared)("the donors of ../shared", () => {
  test.each(["stories260K", "tiny_llama3", "tiny_qwen3"])(
    "%s goes through surgery and verifies clean",
    async (name) => {
      const donor = join(SHARED, "donors", name);
      const output = fresh();
      const { report } = await operateOn(donor, output);
      expect(report.totals.killed_of_target).toBeGreaterThan(0.2);
      expect(report.totals.killed_of_target).toBeLessThan(0.35);
      expect((await verify(output, { donorPath: donor, parity: "reference" })).differences).toEqual([]);
    },
  );

  test("tiny_qwen3_sharded is refused as quantised", async () => {
    await expect(operateOn(join(SHARED, "donors/tiny_qwen3_sharded"), fresh())).rejects.toMatchObject({
      code: "DONOR_QUANTISED",
    });
  });
});
