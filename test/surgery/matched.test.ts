import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { verify } from "../../dist/audit/verify.js";
import { type DistilHooks, distilModel } from "../../dist/calibration/distil.js";
import { openDonor } from "../../dist/checkpoint/donor.js";
import { Engine } from "../../dist/engine/session.js";
import { DISTIL_DEFAULTS } from "../../dist/matching/distil.js";
import { LayerRunner } from "../../dist/probe/forward/layer-runner.js";
import type { TensorRecord } from "../../dist/record/ledger.js";
import { renderMarkdown } from "../../dist/report/index.js";
import type { SurgeryEvent } from "../../dist/surgery/events.js";
import { checkOptions, type SurgeryOptions } from "../../dist/surgery/options.js";
import { hasEngine } from "../probe/engine-present.js";
import { writeTinyModel } from "../probe/tiny-model.js";
import { readTensor } from "../read-tensor.js";
import { LOAM, SHARED } from "../shared.js";
import { temporaryFolder } from "../temporary.js";
import { filesOf, operateOn } from "./operate.js";

const folder = temporaryFolder();
/** Attention of two layers, so that it is quick; a pattern, so that a moved mask would show. */
const OPTIONS: SurgeryOptions = {
  flow: "matched",
  include: "layers\\.[01]\\.self_attn\\.[qkvo]_proj\\.weight",
  pattern: "2:4",
  calibration: fileURLToPath(new URL("../../LICENSE", import.meta.url)),
  samples: 32,
  window: 64,
  workers: 0,
  matchRounds: 2,
};

function recordsOf(output: string): TensorRecord[] {
  return readFileSync(join(output, "physarium/ledger.jsonl"), "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as TensorRecord)
    .filter(({ kind, role }) => kind === "tensor" && role === "target");
}

describe.skipIf(!hasEngine)("surgery --flow matched", () => {
  const whole = join(folder, "whole");

  test("matches each layer, keeps the pattern, verifies, and says what was gained", async () => {
    const events: SurgeryEvent[] = [];
    const { report } = await operateOn(LOAM, whole, OPTIONS, { onEvent: (event) => events.push(event) });
    expect(report).toMatchObject({ flow: "matched", flow_version: "v3" });
    const layers = events.filter((event) => event.event === "layer");
    expect(layers).toHaveLength(2);
    for (const layer of layers) {
      const { match, seconds } = layer as SurgeryEvent & { event: "layer" };
      expect(match!.held_out_after).toBeLessThan(match!.held_out_before);
      expect(match!.loss_after).toBeLessThan(match!.loss_before);
      expect(match!.steps).toBeGreaterThan(0);
      expect(match!.steps).toBeLessThanOrEqual(match!.steps_made);
      expect(seconds.match).toBeGreaterThan(0);
    }
    const { differences, checks } = await verify(whole, { donorPath: LOAM, workers: 0 });
    expect(differences).toEqual([]);
    expect(checks.map(({ name }) => name)).toContain("matching recorded");
    const records = recordsOf(whole);
    expect(records).toHaveLength(8);
    expect(new Set(records.map(({ match }) => JSON.stringify(match))).size).toBe(2);
    expect(renderMarkdown(report)).toMatch(/moved together.*held-out error/s);
  });

  test("of every four inputs two live, as many as v2 chose, moved or not", async () => {
    const donor = await openDonor(whole);
    for (const { name } of recordsOf(whole)) {
      const { values } = await readTensor(donor, name);
      for (let at = 0; at < values.length; at += 4) {
        const living = values.subarray(at, at + 4).reduce((sum, weight) => sum + Number(weight !== 0), 0);
        if (living !== 2) expect(`${name} at ${at}: ${living}`).toBe("2 of 4");
      }
    }
  });

  test("a run stopped between layers resumes to the same bytes", async () => {
    const output = join(folder, "stopped");
    const controller = new AbortController();
    const onEvent = ({ event }: SurgeryEvent) => void (event === "layer" && controller.abort());
    await expect(operateOn(LOAM, output, OPTIONS, { onEvent, signal: controller.signal })).rejects.toMatchObject({
      code: "STOPPED",
    });
    expect(recordsOf(`${output}.partial`)).toHaveLength(4);
    await operateOn(LOAM, output, OPTIONS, { resume: true });
    expect(filesOf(output)).toEqual(filesOf(whole));
  });

  test("a resumed run searches on from the rate of the layers that are done, as an undisturbed one does", async () => {
    const output = join(folder, "other rate");
    const controller = new AbortController();
    const onEvent = ({ event }: SurgeryEvent) => void (event === "layer" && controller.abort());
    await expect(operateOn(LOAM, output, OPTIONS, { onEvent, signal: controller.signal })).rejects.toThrow();
    // A rate that doublings of the first one never reach.
    const ledger = join(`${output}.partial`, "physarium/ledger.jsonl");
    writeFileSync(
      ledger,
      readFileSync(ledger, "utf8").replace(/("match":\{[^}]*"rate":)[^,]+/g, (_, head) => `${head}0.01`),
    );
    await operateOn(LOAM, output, OPTIONS, { resume: true });
    const rates = new Set(
      recordsOf(output)
        .slice(-4)
        .map(({ match }) => match!.rate),
    );
    expect(rates.size).toBe(1);
    expect(Number.isInteger(Math.log2([...rates][0] / 0.01))).toBe(true);
  });

  const families = { gemma4_text: /layer 0 takes .* of what comes before it/, qwen3_next: /do not pass Scan/ };
  test.skipIf(!existsSync(`${SHARED}oracle/`)).each(Object.entries(families))(
    "%s, which gradients do not pass, is refused before anything is written",
    async (family, words) => {
      const output = join(folder, family);
      const include = "self_attn\\.o_proj|linear_attn\\.in_proj";
      for (const options of [{}, { distil: 2 }]) {
        const run = operateOn(`${SHARED}oracle/${family}`, output, { ...OPTIONS, include, ...options });
        await expect(run).rejects.toMatchObject({
          code: "DONOR_ARCHITECTURE",
          message: expect.stringMatching(words),
        });
      }
      expect(readdirSync(folder).filter((name) => name.startsWith(family))).toEqual([]);
    },
  );

  /** A model of which every second weight is dead, and what distilling it takes. */
  async function halvedModel() {
    const donor = await openDonor(writeTinyModel(temporaryFolder(), { config: { model_type: "llama" }, dtype: "F32" }));
    const names = donor.shards.flatMap(({ tensors }) => tensors.map(({ name }) => name));
    const bytes = new Map<string, Uint8Array>();
    for (const name of names.filter((name) => name.endsWith("_proj.weight"))) {
      const { values } = await readTensor(donor, name);
      bytes.set(name, new Uint8Array(Float32Array.from(values, (value, at) => (at % 2 === 0 ? value : 0)).buffer));
    }
    const sequences = Array.from({ length: 8 }, (_, row) => Array.from({ length: 8 }, (_, at) => (row * 11 + at) % 97));
    return { donor, bytes, sequences };
  }

  test("a rate that leads astray is halved until it does not, and the best look is what is kept", async () => {
    const { donor, bytes, sequences } = await halvedModel();
    const runner = await LayerRunner.open(donor, {});
    const hooks: DistilHooks = {
      load: async () => undefined,
      save: async () => {},
      stored: async (name) => bytes.get(name)!,
    };
    const options = { ...DISTIL_DEFAULTS, steps: 24, looks: 12, rate: 1 };
    for await (const { distil } of distilModel(runner, sequences, (name) => bytes.has(name), options, 2 ** 30, hooks)) {
      expect(distil.rate).toBeLessThan(1);
      expect(distil.kept).toBeGreaterThan(0);
      expect(distil.held_out_after).toBeLessThan(distil.held_out_before);
      return;
    }
    expect.unreachable("nothing was kept");
  });

  test("half a step of distilling is not saved: what is, is between two steps", async () => {
    const { donor, bytes, sequences } = await halvedModel();
    const run = async (failsAt: number): Promise<number[]> => {
      const saved: number[] = [];
      const engine = await Engine.open();
      let steps = 0;
      const failing: Engine = Object.create(engine);
      failing.session = (graph, fold) => {
        if (graph.outputNames.includes("residual_in_gradient") && ++steps === failsAt) throw new Error("no memory");
        return engine.session(graph, fold);
      };
      const hooks: DistilHooks = {
        load: async () => undefined,
        save: async ({ made }) => void saved.push(made),
        stored: async (name) => bytes.get(name)!,
        onStep: ({ made }) => {
          if (failsAt === 0 && made === 2) throw new Error("full");
        },
      };
      const runner = await LayerRunner.open(donor, { engine: failing });
      const isTarget = (name: string) => bytes.has(name);
      const options = { ...DISTIL_DEFAULTS, steps: 3 };
      const distilled = distilModel(runner, sequences, isTarget, options, 2 ** 30, hooks);
      await expect(distilled.next()).rejects.toThrow(failsAt === 0 ? "full" : "no memory");
      return saved;
    };
    // Three layers: the fifth of those sessions is the second one on the second step's way back.
    expect(await run(5)).toEqual([]);
    expect(await run(0)).toEqual([2]);
  });

  test("a layer of which one tensor is missing is made anew, whole", async () => {
    const output = join(folder, "torn");
    const controller = new AbortController();
    const onEvent = (event: SurgeryEvent) =>
      void (event.event === "tensor" && event.role === "target" && controller.abort());
    await expect(operateOn(LOAM, output, OPTIONS, { onEvent, signal: controller.signal })).rejects.toThrow();
    await operateOn(LOAM, output, OPTIONS, { resume: true });
    expect(filesOf(output)).toEqual(filesOf(whole));
  });

  test("--distil brings the whole model nearer to the donor, resumes by step, and is a class of its own", {
    timeout: 300_000,
  }, async () => {
    // So few that there is something to win back.
    const options = { ...OPTIONS, pattern: "1:8", distil: 6 };
    const [output, stopped] = [join(folder, "distilled"), join(folder, "distil stopped")];
    const steps: number[] = [];
    const { report } = await operateOn(LOAM, output, options, {
      onEvent: (event) => void (event.event === "distilled" && steps.push(event.step)),
    });
    expect(steps).toEqual([1, 2, 3, 4, 5, 6]);
    const { trained, distil } = report.activation!;
    expect(trained).toBe(true);
    expect(distil!.held_out_after).toBeLessThan(distil!.held_out_before);
    expect((await verify(output, { donorPath: LOAM, workers: 0 })).differences).toEqual([]);
    expect(readdirSync(join(output, "physarium"))).not.toContain("distil.state");
    expect(renderMarkdown(report)).toMatch(/trained/);
    for (const { trained: isTrained, sparsity } of recordsOf(output).slice(-8)) {
      expect(isTrained).toBe(true);
      expect(sparsity).toBe(7 / 8);
    }

    const controller = new AbortController();
    const onEvent = (event: SurgeryEvent) =>
      void (event.event === "distilled" && event.step === 3 && controller.abort());
    await expect(operateOn(LOAM, stopped, options, { onEvent, signal: controller.signal })).rejects.toMatchObject({
      code: "STOPPED",
    });
    expect(readdirSync(join(`${stopped}.partial`, "physarium"))).toContain("distil.state");
    const later: number[] = [];
    await operateOn(LOAM, stopped, options, {
      resume: true,
      onEvent: (event) => void (event.event === "distilled" && later.push(event.step)),
    });
    expect(later).toEqual([4, 5, 6]);
    expect(filesOf(stopped)).toEqual(filesOf(output));
  });

  test("other rounds are another operation", async () => {
    await expect(operateOn(LOAM, whole, { ...OPTIONS, matchRounds: 3 }, { resume: true })).rejects.toMatchObject({
      code: "USAGE_RESUME_MISMATCH",
      message: expect.stringContaining("activation.match.rounds was 2 and is 3"),
    });
  });
});

test.each<[SurgeryOptions, RegExp]>([
  [{ flow: "matched", heal: false }, /--no-heal keeps survivors' bits/],
  [{ flow: "matched", calibration: "grams.safetensors" }, /a file of Grams, which holds none/],
  [{ flow: "activation", matchRounds: 3 }, /--match-rounds belongs to --flow matched/],
  [{ flow: "activation", distil: 3 }, /--distil belongs to --flow matched/],
  [{ flow: "matched", distil: 0 }, /--distil is 0/],
  [{ flow: "magnitude", matchRounds: 3 }, /--match-rounds belongs to --flow matched/],
  [{ flow: "matched", matchRounds: 0 }, /--match-rounds is 0/],
])("%j is refused", (options, words) => {
  expect(() => checkOptions(options)).toThrow(words);
});
