import { mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { packModel } from "../../dist/pack/pack-model.js";
import { evaluate } from "../../dist/probe/evaluate.js";
import { openSource } from "../../dist/sources.js";
import { physarium } from "../physarium.js";
import { temporaryFolder } from "../temporary.js";
import { hasEngine, LOAM } from "./engine-present.js";

const folder = temporaryFolder();
const packed = join(folder, "packed");
const text = join(folder, "text.txt");
const protocol = { window: 64, limit: 2, threads: 1 } as const;

describe.skipIf(!hasEngine)("a packed model", () => {
  beforeAll(async () => {
    await packModel(LOAM, packed, { workers: 0 });
    writeFileSync(text, "Once upon a time there was a little tree that wanted to see the sea.\n".repeat(20));
  });

  test.each([
    ["weights as they are, sessions kept", 2 ** 30, { workload: { runs: 1, tokens: 1 } }],
    ["f32 copies", 2 ** 30, {}],
    ["a session at a time", 1, {}],
  ])("gives the numbers of the folder it stands for: %s", async (_, memoryBytes, more) => {
    const source = await openSource(packed);
    const options = { ...protocol, ...more, memoryBytes };
    const [one, other] = [await evaluate(LOAM, text, options), await evaluate(source, text, options)];
    await source.close();
    expect(other.model.top).toEqual(one.model.top);
    // Kept copies are folded a layer at a time here and all at once there: the same products, in another layout.
    expect(Math.abs(other.quality.model.mean_nll - one.quality.model.mean_nll)).toBeLessThan(1e-6);
  });

  test("is compared with its donor to nothing, as model and as donor", async () => {
    const source = await openSource(packed);
    for (const [model, against] of [
      [source, LOAM],
      [LOAM, source],
    ]) {
      const { quality } = await evaluate(model, text, { ...protocol, against });
      expect(quality.divergence!.kl_max).toBeLessThan(1e-6);
      expect(quality.divergence!.same_top).toBe(1);
    }
    await source.close();
  });

  test("is evaluated, gated and continued from where it lies: nothing is unpacked anywhere", async () => {
    const TMPDIR = join(folder, "tmp");
    mkdirSync(TMPDIR);
    const seen = new Set<string>();
    const watch = setInterval(() => readdirSync(TMPDIR).forEach((name) => void seen.add(name)), 20);
    const few = ["--text", text, "--window", "64", "--limit", "1", "--threads", "1"];
    const runs = [
      ["eval", packed, ...few, "--against", LOAM],
      ["gate", packed, "--against", LOAM, "--prompt", "Once", "--max-tokens", "2", "--threads", "1"],
      ["generate", packed, "--prompt", "Once upon", "--max-tokens", "2", "--threads", "1"],
    ];
    for (const args of runs) {
      const { status, stderr } = await physarium(args, { env: { TMPDIR } });
      expect(status, `${args[0]}: ${stderr}`).toBe(0);
    }
    clearInterval(watch);
    expect([...seen]).toEqual([]);
    expect(readdirSync(packed).sort()).toContain("physarium-pack.json");
  });
});
