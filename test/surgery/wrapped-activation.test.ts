import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { verify } from "../../dist/audit/verify.js";
import type { SurgeryOptions } from "../../dist/surgery/options.js";
import { smallConfig, writeDonor } from "../export/random-donor.js";
import { weightsOf } from "../export/weights-of.js";
import { hasEngine } from "../probe/engine-present.js";
import { temporaryFolder } from "../temporary.js";
import { operateOn } from "./operate.js";

const folder = temporaryFolder();
const text = join(folder, "text.txt");
writeFileSync(text, "The mould that lived in a wood knew every way to the oats, and 27 more. ".repeat(60));
const CALIBRATION = { calibration: text, samples: 4, window: 32, workers: 0 };
const V2: SurgeryOptions = { flow: "activation", targetSparsity: 0.5, ...CALIBRATION };

/** The same model twice: with plain names, and with those that an adapter library leaves behind. */
const wrapped = (name: string): string => name.replace(/([qv]_proj|down_proj)\.weight$/, "$1.base_layer.weight");
const config = smallConfig("llama", { num_hidden_layers: 3 });
const plain = writeDonor(join(folder, "plain"), { config, tokenizer: true });
const donor = writeDonor(join(folder, "donor"), { config, tokenizer: true });
rename(join(donor, "model.safetensors"));

function rename(path: string): void {
  const bytes = readFileSync(path);
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, 8 + length).toString()) as Record<string, unknown>;
  const named = JSON.stringify(Object.fromEntries(Object.entries(header).map(([name, info]) => [wrapped(name), info])));
  const text = Buffer.from(named.padEnd(8 * Math.ceil(named.length / 8)));
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(path, Buffer.concat([size, text, bytes.subarray(8 + length)]));
}

async function sameWeights(output: string, of: string): Promise<void> {
  const [own, other] = [await weightsOf(output), await weightsOf(of)];
  expect([...own.keys()].some((name) => name.includes("base_layer"))).toBe(true);
  for (const [name, weights] of other) expect(own.get(wrapped(name)), name).toEqual(weights);
}

describe.skipIf(!hasEngine)("v2 on tensors with the names of a wrapper", () => {
  test("gives the weights that plain names give, under the file's own names", async () => {
    await operateOn(plain, join(folder, "plain-half"), V2);
    const output = join(folder, "half");
    const { report } = await operateOn(donor, output, V2);
    expect(report.totals.killed_of_target).toBeCloseTo(0.5, 2);
    await sameWeights(output, join(folder, "plain-half"));
    expect((await verify(output, { donorPath: donor, parity: "full", workers: 0 })).differences).toEqual([]);
    const ledger = readFileSync(join(output, "physarium", "ledger.jsonl"), "utf8");
    expect(ledger).toContain("model.layers.0.self_attn.q_proj.base_layer.weight");
  });

  test("stops behind a layer and goes on from it", async () => {
    const output = join(folder, "stopped");
    const controller = new AbortController();
    const onEvent = ({ event }: { event: string }): void => void (event === "layer" && controller.abort());
    await expect(operateOn(donor, output, V2, { onEvent, signal: controller.signal })).rejects.toMatchObject({
      code: "STOPPED",
    });
    const notes: string[] = [];
    const listen = (event: { event: string; message?: string }): void => void notes.push(event.message ?? "");
    await operateOn(donor, output, V2, { resume: true, onEvent: listen });
    // The seven matrices of a layer, and what was carried over.
    expect(notes.join("\n")).toMatch(/resuming: (?:1[5-9]|[2-9]\d) of/);
    await sameWeights(output, join(folder, "plain-half"));
  });

  test("matches and distils them, too", async () => {
    const options: SurgeryOptions = { ...V2, flow: "matched", matchRounds: 2, distil: 2 };
    await operateOn(plain, join(folder, "plain-matched"), options);
    await operateOn(donor, join(folder, "matched"), options);
    await sameWeights(join(folder, "matched"), join(folder, "plain-matched"));
  });
});
