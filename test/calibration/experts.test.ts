import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { verify } from "../../dist/audit/verify.js";
import { tempered, trustIn } from "../../dist/calibration/few-tokens.js";
import { collectGrams } from "../../dist/calibration/grams/collect.js";
import { compareMethods } from "../../dist/compare/comparison.js";
import { chooseMethods } from "../../dist/methods/registry.js";
import { LayerRunner } from "../../dist/probe/forward/layer-runner.js";
import type { TensorRecord } from "../../dist/record/ledger.js";
import { renderMarkdown } from "../../dist/report/index.js";
import { renderSummary } from "../../dist/report/summary.js";
import type { SurgeryOptions } from "../../dist/surgery/options.js";
import { physarium } from "../physarium.js";
import { hasEngine } from "../probe/engine-present.js";
import { MIXTURE, type MixtureLayout, writeTinyMixture } from "../probe/tiny-mixture.js";
import { filesOf, operateOn } from "../surgery/operate.js";
import { temporaryFolder } from "../temporary.js";

const folder = temporaryFolder();
const text = join(folder, "text.txt");
writeFileSync(text, readFileSync("examples/texts/loam-stories.txt").subarray(0, 6000));
const V2: SurgeryOptions = {
  flow: "activation",
  include: "layers\\.0\\.(?:self_attn\\.o_proj|block_sparse_moe\\.(?:experts|input_linear|output_linear))",
  targetSparsity: 0.5,
  calibration: text,
  samples: 3,
  window: 64,
  workers: 1,
};
const UNSEEN = 2;

function records(output: string): TensorRecord[] {
  return readFileSync(join(output, "physarium/ledger.jsonl"), "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as TensorRecord)
    .filter(({ kind, role }) => kind === "tensor" && role === "target");
}

describe("statistics of an expert that saw few tokens", () => {
  const cols = 4;
  const gram = Float32Array.from({ length: 16 }, (_, at) => (at % 5 === 0 ? 2 + at : 0.5));
  const inputs = { tokens: 1, gram, cross: gram.map((value) => 2 * value) };

  test("count by tokens over inputs, and the rest is inputs all alike of the same energy", () => {
    expect(trustIn(1, cols)).toBe(0.25);
    expect(tempered({ inputs }, cols, cols)).toEqual({ inputs });
    const mean = (2 + 7 + 12 + 17) / 4;
    const { gram: own, cross } = tempered({ inputs }, 1, cols).inputs!;
    expect(own[1]).toBeCloseTo(0.125);
    expect(own[5]).toBeCloseTo(0.25 * 7 + 0.75 * mean);
    expect(cross![5]).toBeCloseTo(0.25 * 14 + 0.75 * mean);
  });

  test("know nothing without a token, whatever the sums of none are", () => {
    const empty = { tokens: 0, gram: new Float32Array(16).fill(Number.NaN) };
    const one = Float32Array.from({ length: 16 }, (_, at) => Number(at % 5 === 0));
    expect(tempered({ inputs: empty }, 0, cols).inputs!.gram).toEqual(one);
    expect(tempered({ energies: new Float32Array(4).fill(Number.NaN) }, 0, cols).energies).toEqual(
      new Float32Array(4).fill(1),
    );
  });

  test("are the same in strips of columns", async () => {
    const strip = async (from: number, to: number) => ({
      gram: Float32Array.from({ length: cols * (to - from) }, (_, at) => {
        const [row, col] = [Math.floor(at / (to - from)), from + (at % (to - from))];
        return gram[row * cols + col];
      }),
    });
    const meanEnergy = (2 + 7 + 12 + 17) / 4;
    const whole = tempered({ inputs }, 3, cols).inputs!.gram;
    const { tiled } = tempered({ tiled: { meanEnergy, strip } }, 3, cols);
    const right = (await tiled!.strip(2, 4)).gram;
    for (let row = 0; row < cols; row++) {
      for (const col of [2, 3]) expect(right[row * 2 + col - 2]).toBeCloseTo(whole[row * cols + col], 6);
    }
  });
});

describe.skipIf(!hasEngine)("v2 on a mixture of experts", () => {
  test.each<MixtureLayout>(["mixtral", "granitemoe"])("%s: each expert sees its own tokens", async (layout) => {
    const model = writeTinyMixture(join(folder, `seen-${layout}`), layout);
    const runner = await LayerRunner.open(model, { threads: 1 });
    const ids = Array.from({ length: 60 }, (_, at) => (at * 37) % 200);
    const { hidden: H, width, experts, perToken } = MIXTURE;
    const tensor = readTensors(model);
    const moe = "model.layers.0.block_sparse_moe.";
    let x: Float32Array = new Float32Array(0);
    await runner.forwardLayer(0, await runner.embed([ids]), {
      onInput: (step, input) => {
        if (step === "gate_up") x = input.data;
      },
    });
    const router = tensor(`${moe}${layout === "mixtral" ? "gate" : "router.layer"}.weight`);
    const seen: number[][] = Array.from({ length: experts }, () => []);
    for (let token = 0; token < ids.length; token++) {
      const logits = Array.from({ length: experts }, (_, e) => dot(router, e * H, x, token * H, H));
      const best = logits.map((_, e) => e).sort((a, b) => logits[b] - logits[a]);
      for (const expert of best.slice(0, perToken)) seen[expert].push(token);
    }
    let compared = 0;
    for await (const { layer, step, expert, mean, tokenCount } of collectGrams(runner, [ids])) {
      if (layer > 0) break;
      if (expert === undefined) continue;
      expect(tokenCount).toBe(seen[expert].length);
      const at = step.endsWith("gate_up") ? H : width;
      const inputs = seen[expert].map((token) => {
        const row = x.subarray(token * H, (token + 1) * H);
        return at === H ? row : hiddenOf(row, expert);
      });
      for (const [row, col] of [
        [0, 0],
        [3, 41],
        [at - 1, 7],
      ]) {
        const expected = inputs.reduce((sum, input) => sum + input[row] * input[col], 0) / tokenCount;
        expect(Math.abs(mean[row * at + col] - expected)).toBeLessThan(1e-4 * (1 + Math.abs(expected)));
      }
      compared++;
    }
    expect(compared).toBe(2 * experts);
    await runner.close();

    function hiddenOf(row: Float32Array, expert: number): Float32Array {
      const both = layout === "granitemoe" ? tensor(`${moe}input_linear.weight`) : undefined;
      const gate = both ?? tensor(`${moe}experts.${expert}.w1.weight`);
      const up = both ?? tensor(`${moe}experts.${expert}.w3.weight`);
      const start = both === undefined ? 0 : expert * 2 * width * H;
      return Float32Array.from({ length: width }, (_, neuron) => {
        const inner = dot(gate, start + neuron * H, row, 0, H);
        const upper = dot(up, start + (both === undefined ? neuron : width + neuron) * H, row, 0, H);
        return (inner / (1 + Math.exp(-inner))) * upper;
      });
    }
  });

  test.each<MixtureLayout>(["mixtral", "granitemoe"])(
    "%s: verifies, gives the same bytes on more threads, names experts that saw too little",
    { timeout: 60_000 },
    async (layout) => {
      const model = writeTinyMixture(join(folder, layout), layout, UNSEEN);
      const output = join(folder, `${layout}-whole`);
      const { report } = await operateOn(model, output, V2);
      expect(report.totals.killed_of_target).toBeCloseTo(0.5, 3);
      expect((await verify(output, { donorPath: model, workers: 0 })).differences).toEqual([]);

      const own = records(output).filter(({ name }) => !name.includes("self_attn"));
      expect(own).toHaveLength(layout === "mixtral" ? 12 : 2);
      for (const { name, expert_tokens, survivors_changed } of own) {
        const isUnseen = name.includes(`experts.${UNSEEN}.`);
        if (layout === "granitemoe") expect(expert_tokens![UNSEEN]).toBe(0);
        else expect(expert_tokens).toEqual([isUnseen ? 0 : expect.any(Number)]);
        if (isUnseen) expect(survivors_changed).toBe(0);
        else expect(survivors_changed).toBeGreaterThan(0);
      }
      const per = own.filter(({ name }) => /w1|input_linear/.test(name)).flatMap(({ expert_tokens }) => expert_tokens!);
      expect(per.reduce((sum, tokens) => sum + tokens, 0)).toBe(3 * 64 * MIXTURE.perToken);
      expect(renderSummary(report)).toMatch(/experts +\d+ of \d+ expert matrices saw fewer tokens.*healed less/);
      expect(renderMarkdown(report)).toMatch(
        layout === "mixtral" ? /experts\.2\.w1\.weight.* 0 .*48/ : /input_linear\.weight`, expert 2.* 0 .*48/,
      );
      expectDonorsBits(model, output, layout);

      const again = join(folder, `${layout}-again`);
      await operateOn(model, again, { ...V2, workers: 2 });
      expect(filesOf(again)).toEqual(filesOf(output));
    },
  );

  test("in tiles of columns, and stopped between two layers, it ends with the same bytes", async () => {
    const model = writeTinyMixture(join(folder, "tiles"), "granitemoe");
    const options: SurgeryOptions = {
      ...V2,
      include: "self_attn\\.o_proj|output_linear",
      gram: "tile",
    };
    const whole = join(folder, "tiles-whole");
    await operateOn(model, whole, options);
    expect((await verify(whole, { donorPath: model, workers: 0 })).differences).toEqual([]);
    const stopped = join(folder, "tiles-stopped");
    const stop = new AbortController();
    const run = operateOn(model, stopped, options, {
      signal: stop.signal,
      onEvent: (event) => {
        if (event.event === "layer") stop.abort();
      },
    });
    await expect(run).rejects.toMatchObject({ code: "STOPPED" });
    await operateOn(model, stopped, options, { resume: true });
    expect(filesOf(stopped)).toEqual(filesOf(whole));
  });

  test("from a file of calibrate, and in compare, where it costs less than magnitude", {
    timeout: 60_000,
  }, async () => {
    const model = writeTinyMixture(join(folder, "stored"), "mixtral", UNSEEN);
    const grams = join(folder, "grams.safetensors");
    const sampling = ["--samples", "3", "--window", "64", "--seed", "0"];
    const { status, stderr } = await physarium(["calibrate", model, "--text", text, ...sampling, "--out", grams]);
    expect(status, stderr).toBe(0);
    const output = join(folder, "stored-output");
    const { samples, window, ...own } = V2;
    await operateOn(model, output, { ...own, calibration: grams });
    expect((await verify(output, { donorPath: model, workers: 0 })).differences).toEqual([]);
    expectDonorsBits(model, output, "mixtral");
    const { rows } = await compareMethods(model, {
      text,
      calibration: text,
      methods: chooseMethods(["magnitude", "wanda", "sparsegpt", "activation"]),
      targets: [{ kind: "sparsity", sparsity: 0.5 }],
      protocol: { window: 64, limit: 6 },
      samples: 12,
      seed: 0,
      threads: 1,
    });
    const kl = Object.fromEntries(rows.map(({ method, kl_mean }) => [method, kl_mean]));
    expect(rows.map(({ sparsity_reached }) => sparsity_reached.toFixed(2))).toEqual(["0.50", "0.50", "0.50", "0.50"]);
    expect(kl.activation).toBeLessThan(kl.sparsegpt);
    expect(kl.sparsegpt).toBeLessThan(kl.magnitude);
  });
});

/** No token came: the smallest of each row are dead, all others as they were. */
function expectDonorsBits(model: string, output: string, layout: MixtureLayout): void {
  const { hidden: H, width } = MIXTURE;
  const name = `model.layers.0.block_sparse_moe.${layout === "mixtral" ? `experts.${UNSEEN}.w2` : "output_linear"}.weight`;
  const start = layout === "mixtral" ? 0 : UNSEEN * H * width;
  const [before, after] = [readTensors(model)(name), readTensors(output)(name)].map((all) =>
    all.subarray(start, start + H * width),
  );
  for (let row = 0; row < H; row++) {
    const own = before.subarray(row * width, (row + 1) * width);
    const limit = [...own].map(Math.abs).sort((a, b) => a - b)[width / 2];
    const expected = own.map((value) => (Math.abs(value) < limit ? 0 : value));
    expect(after.subarray(row * width, (row + 1) * width)).toEqual(expected);
  }
}

function readTensors(model: string): (name: string) => Float32Array {
  const file = readFileSync(join(model, "model.safetensors"));
  const start = 8 + Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.subarray(8, start).toString()) as Record<string, { data_offsets: [number, number] }>;
  return (name) => {
    const [from, to] = header[name].data_offsets;
    return new Float32Array(Uint8Array.from(file.subarray(start + from, start + to)).buffer);
  };
}

function dot(a: Float32Array, aStart: number, b: Float32Array, bStart: number, length: number): number {
  let sum = 0;
  for (let at = 0; at < length; at++) sum += a[aStart + at] * b[bStart + at];
  return sum;
}
