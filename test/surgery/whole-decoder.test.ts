import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { verify } from "../../dist/audit/verify.js";
import { openDonor } from "../../dist/checkpoint/donor.js";
import { renderMarkdown, renderSummary } from "../../dist/report/index.js";
import { checkOptions } from "../../dist/surgery/options.js";
import { type Plan, planSurgery } from "../../dist/surgery/plan.js";
import { gaussianTensor, type TensorFixture, writeDonor } from "../donors.js";
import { hasShared, SHARED } from "../shared.js";
import { temporaryFolder } from "../temporary.js";
import { operateOn } from "./operate.js";

const folder = temporaryFolder();

function donor(name: string, shapes: Record<string, readonly number[]>, config: object): string {
  const tensors = Object.entries(shapes).map(([tensor, shape], seed) =>
    gaussianTensor(tensor, "BF16", shape, seed + 1),
  );
  return writeDonor(join(folder, name), [tensors], { "config.json": JSON.stringify(config) });
}

const planOf = async (path: string): Promise<Plan> => planSurgery(await openDonor(path), checkOptions({}), true);

describe("what is left out is said", () => {
  const mixtral = {
    "model.embed_tokens.weight": [64, 32],
    "model.layers.0.self_attn.q_proj.weight": [32, 32],
    "model.layers.0.block_sparse_moe.experts.0.w1.weight": [48, 32],
    "model.layers.0.block_sparse_moe.experts.1.w1.weight": [48, 32],
    "model.layers.0.block_sparse_moe.gate.weight": [2, 32],
  };
  const all = 32 * 32 + 2 * 48 * 32 + 2 * 32;

  test("in plan, report, summary, surgery.json and verify", async () => {
    const path = donor("mixtral", mixtral, { model_type: "mixtral", num_hidden_layers: 1 });
    const untouched = [
      {
        pattern: "model.layers.N.block_sparse_moe.gate.weight",
        tensors: 1,
        weights: 64,
        share: 64 / all,
        why: "a router: it chooses or weighs experts",
      },
    ];
    const decoder = {
      weights: all,
      target_weights: all - 64,
      fraction: (all - 64) / all,
      untouched,
    };
    expect((await planOf(path)).decoder).toEqual(decoder);
    const output = join(folder, "mixtral-operated");
    const { report } = await operateOn(path, output);
    expect(report).toMatchObject({ coverage: { fraction: 1 }, decoder });
    expect(renderSummary(report)).toMatch(
      /98\.46 % of the 4,160 weights .*\n.*model\.layers\.N\.block_sparse_moe\.gate/,
    );
    expect(renderMarkdown(report)).toMatch(/block_sparse_moe\.gate\.weight.*a router/);
    for (const verification of [await verify(output), await verify(output, { donorPath: path })]) {
      expect(verification).toMatchObject({ ok: true, decoder });
      expect(verification.checks.find(({ name }) => name === "decoder coverage")?.detail).toMatch(/98\.46 %/);
    }
  });

  test("by a warning where it is much of the decoder, unless it was asked for", async () => {
    const shapes = { "model.layers.0.mlp.up_proj.weight": [8, 8], "model.layers.0.mlp.router.weight": [4, 8] };
    const path = donor("routers", shapes, {});
    expect((await planOf(path)).warnings).toEqual([
      expect.objectContaining({ code: "WARN_UNTOUCHED", message: expect.stringMatching(/33\.3 %.*router/) }),
    ]);
    const excluded = planSurgery(await openDonor(path), checkOptions({ include: "up_proj" }));
    expect(excluded.warnings).toEqual([]);
    expect(excluded.decoder).toMatchObject({ fraction: 2 / 3 });
  });

  test("draft heads by a warning of their own; they count in no denominator", async () => {
    const shapes = { "model.layers.0.mlp.up_proj.weight": [8, 8], "mtp.layers.0.mlp.up_proj.weight": [8, 8] };
    const plan = await planOf(donor("mtp", shapes, {}));
    expect(plan.warnings.map(({ code }) => code)).toEqual(["WARN_DRAFT_HEAD"]);
    expect(plan).toMatchObject({ targetTensors: 1, decoder: { weights: 64, fraction: 1 } });
  });

  test("a target from outside the decoder's layers counts in no denominator either", async () => {
    const shapes = { "lm_head.weight": [16, 8], "model.layers.0.mlp.up_proj.weight": [8, 8] };
    const output = join(folder, "head-operated");
    const { report } = await operateOn(donor("head", shapes, {}), output, { include: "lm_head|up_proj" });
    expect(report).toMatchObject({ coverage: { weights_target: 192 }, decoder: { weights: 64, target_weights: 64 } });
    expect(await verify(output, { donorPath: join(folder, "head") })).toMatchObject({ ok: true });
  });
});

describe("a matrix stored (inputs, outputs)", () => {
  /** The same weights in GPT-2's layout and, transposed, in everybody else's. */
  function both(dtype: "BF16" | "F32") {
    const shape = [70, 150];
    const square = [70, 70];
    const bias = (name: string, length: number) => gaussianTensor(name, dtype, [length], 9);
    const stored = [
      gaussianTensor("h.0.attn.c_attn.weight", dtype, shape, 3),
      bias("h.0.attn.c_attn.bias", 150),
      gaussianTensor("h.0.attn.c_proj.weight", dtype, square, 4),
      bias("h.0.attn.c_proj.bias", 70),
    ];
    const turned = stored.map((tensor) => (tensor.shape.length === 2 ? turn(tensor) : tensor));
    return { stored, turned };
  }

  function turn({ name, dtype, shape: [rows, cols], bytes }: TensorFixture): TensorFixture {
    const width = bytes.byteLength / (rows * cols);
    const out = new Uint8Array(bytes.byteLength);
    for (let row = 0; row < rows; row++)
      for (let col = 0; col < cols; col++)
        for (let b = 0; b < width; b++) out[(col * rows + row) * width + b] = bytes[(row * cols + col) * width + b];
    return { name, dtype, shape: [cols, rows], bytes: out };
  }

  test.each([
    ["magnitude", "BF16"],
    ["balanced", "BF16"],
    ["balanced", "F32"],
  ] as const)("%s, %s: the zeros are those of the turned matrix, and parity holds", async (flow, dtype) => {
    const { stored, turned } = both(dtype);
    const outputs: Uint8Array[][] = [];
    for (const [name, tensors] of [["stored", stored] as const, ["turned", turned] as const]) {
      const path = writeDonor(join(folder, `${flow}-${dtype}-${name}`), [tensors]);
      const output = `${path}-operated`;
      await operateOn(path, output, { flow, blockSize: 32 });
      const found = await verify(output, { donorPath: path, parity: "full" });
      expect(found.differences).toEqual([]);
      const { shards } = await openDonor(output);
      const bytes = new Uint8Array(readFileSync(join(output, shards[0].file)));
      outputs.push(
        shards[0].tensors
          .filter(({ shape }) => shape.length === 2)
          .map(({ byteOffset, byteLength }) => bytes.slice(byteOffset, byteOffset + byteLength)),
      );
    }
    const matrices = stored.filter(({ shape }) => shape.length === 2);
    for (const [i, matrix] of matrices.entries()) {
      expect(Buffer.from(turn({ ...matrix, bytes: outputs[0][i] }).bytes).equals(outputs[1][i])).toBe(true);
      expect(outputs[0][i]).not.toEqual(matrix.bytes);
    }
  });

  test("plan, ledger and verify without the donor know it", async () => {
    const path = writeDonor(join(folder, "known"), [both("BF16").stored]);
    const output = join(folder, "known-operated");
    await operateOn(path, output, { flow: "balanced" });
    const ledger = readFileSync(join(output, "physarium/ledger.jsonl"), "utf8");
    expect(ledger.match(/"stored_by_input":true/g)).toHaveLength(2);
    expect(await verify(output)).toMatchObject({ ok: true });
  });

  test("a NaN is named where it lies in the file", async () => {
    const { stored } = both("BF16");
    const bytes = stored[0].bytes.slice();
    new DataView(bytes.buffer).setUint16(2 * (41 * 150 + 97), 0x7fc0, true);
    const path = writeDonor(join(folder, "nan"), [[{ ...stored[0], bytes }, stored[1]]]);
    await expect(operateOn(path, join(folder, "nan-operated"), { flow: "balanced", blockSize: 32 })).rejects.toThrow(
      /row 41, column 97/,
    );
  });
});

/** Families of the oracle whose decoder is not targeted whole, and what stays: routers and short convolutions. */
const STAYS: Record<string, RegExp> = {
  deepseek_v3: /gate/,
  gpt_oss: /router/,
  lfm2: /conv/,
  llama4_text: /router/,
  mixtral: /gate/,
  mixtral_w123: /gate/,
  qwen2_moe: /gate/,
  qwen3_moe: /gate/,
  qwen3_next: /gate|conv1d/,
};

describe.runIf(hasShared)("the shared models", () => {
  const models = ["oracle", "inputs"].flatMap((kind) =>
    (existsSync(join(SHARED, kind)) ? readdirSync(join(SHARED, kind)) : [])
      .filter((name) => existsSync(join(SHARED, kind, name, "config.json")) && name !== "exl3_names")
      .map((name) => [name, join(SHARED, kind, name)] as const),
  );

  test.each(models)("%s is targeted whole, but for what is stated", async (name, path) => {
    const { decoder } = await planOf(path);
    const stays = STAYS[name];
    for (const row of decoder.untouched) expect(row.pattern).toMatch(stays ?? /^$/);
    expect(decoder.fraction).toBeGreaterThan(stays === undefined ? 0.99999 : 0.98);
    expect(decoder.untouched.length > 0).toBe(stays !== undefined);
  });

  test.runIf(existsSync(join(SHARED, "inputs/exl3_names")))("EXL3 is refused as quantised", async () => {
    await expect(planOf(join(SHARED, "inputs/exl3_names"))).rejects.toMatchObject({ code: "DONOR_QUANTISED" });
  });
});
