import {
  closeSync,
  cpSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  statSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { verify } from "../../dist/audit/verify.js";
import { openCalibration } from "../../dist/calibration/calibration-source.js";
import { openDonor } from "../../dist/checkpoint/donor.js";
import { LayerRunner } from "../../dist/probe/forward/layer-runner.js";
import type { TensorRecord } from "../../dist/record/ledger.js";
import { renderHtml, renderMarkdown } from "../../dist/report/index.js";
import { layerGrid } from "../../dist/report/layer-grid.js";
import type { SurgeryEvent } from "../../dist/surgery/events.js";
import { checkSameCalibration } from "../../dist/surgery/layer-flow.js";
import { checkOptions, type SurgeryOptions } from "../../dist/surgery/options.js";
import { planSurgery } from "../../dist/surgery/plan.js";
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
    const events: SurgeryEvent[] = [];
    const { report } = await operateOn(LOAM, whole, OPTIONS, { onEvent: (event) => events.push(event) });
    const last = events.findLast(({ event }) => event === "progress") as SurgeryEvent & { event: "progress" };
    expect(last.bytes_done).toBe(last.bytes_total);
    expect(events.filter(({ event }) => event === "layer")).toHaveLength(4);
    expect(report).toMatchObject({ flow: "activation", flow_version: "v2" });
    expect(report.totals.killed_of_target).toBeCloseTo(0.5, 3);
    const { differences } = await verify(whole, { donorPath: LOAM, workers: 0 });
    expect(differences).toEqual([]);
    const records = tensorRecords(whole);
    expect(records).toHaveLength(8);
    for (const { survivors_changed, stages } of records) {
      expect(survivors_changed).toBeGreaterThan(0);
      const errors = stages!.filter(({ stage }) => stage !== "anchor").map(({ relative_error }) => relative_error!);
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
    const layers: SurgeryEvent[] = [];
    const { report } = await operateOn(LOAM, output, OPTIONS, {
      resume: true,
      onEvent: (event) => void (event.event === "layer" && layers.push(event)),
    });
    expect(layers.map((event) => event.event === "layer" && (event.is_done ?? false))).toEqual([
      true,
      true,
      false,
      false,
    ]);
    const runs = readFileSync(join(output, "physarium/runs.jsonl"), "utf8").trimEnd().split("\n");
    const times = runs.map((line) => (JSON.parse(line) as { wall_seconds: number }).wall_seconds);
    expect(times).toHaveLength(2);
    for (const seconds of times) expect(seconds).toBeGreaterThan(0);
    expect(report.wall_seconds).toBeCloseTo(times[0] + times[1], 9);
    expect(filesOf(output)).toEqual(filesOf(whole));
    const after = new Map(tensorRecords(output).map((record) => [record.name, record]));
    for (const record of before) expect(after.get(record.name)).toEqual(record);
  });

  test("a donor that was touched meanwhile is looked at: the same weights keep every layer, others none", async () => {
    const output = join(folder, "touched");
    const donor = join(folder, "touched donor");
    cpSync(LOAM, donor, { recursive: true });
    const stopBehind = async (layer: number, resume: boolean): Promise<string[]> => {
      const controller = new AbortController();
      const notes: string[] = [];
      const onEvent = (event: SurgeryEvent) => {
        if (event.event === "note") notes.push(event.message);
        if (event.event === "layer" && event.layer === layer) controller.abort();
      };
      const running = operateOn(donor, output, OPTIONS, { resume, onEvent, signal: controller.signal });
      await expect(running).rejects.toMatchObject({ code: "STOPPED" });
      return notes;
    };
    await stopBehind(1, false);
    const [shard] = readdirSync(donor).filter((name) => name.endsWith(".safetensors"));
    utimesSync(join(donor, shard), 1, 1);
    const notes = await stopBehind(2, true);
    expect(notes.join("\n")).toMatch(/touched or copied since: .*; every weight there is what it was/);
    expect(notes.join("\n")).toMatch(/resuming: .* are done and unchanged/);
    expect(tensorRecords(`${output}.partial`)).toHaveLength(6);

    // The last byte of the file is a weight that was carried over, or a target's: either way nothing stays.
    const file = openSync(join(donor, shard), "r+");
    const last = statSync(join(donor, shard)).size - 1;
    const byte = Buffer.alloc(1);
    readSync(file, byte, 0, 1, last - 1);
    writeSync(file, Buffer.of(byte[0] ^ 1), 0, 1, last - 1);
    closeSync(file);
    const again = await stopBehind(0, true);
    expect(again.join("\n")).toMatch(/touched or copied since: .*; what was made of it is made again/);
    expect(tensorRecords(`${output}.partial`)).toHaveLength(2);
  });

  test("a run that was killed worked until its last record", async () => {
    const output = join(folder, "killed");
    const controller = new AbortController();
    const onEvent = ({ event }: SurgeryEvent) => void (event === "layer" && controller.abort());
    await expect(operateOn(LOAM, output, OPTIONS, { onEvent, signal: controller.signal })).rejects.toThrow();
    const path = join(`${output}.partial`, "physarium/runs.jsonl");
    const { wall_seconds, ended_at, ...killed } = JSON.parse(readFileSync(path, "utf8"));
    expect(ended_at).toBeDefined();
    writeFileSync(path, `${JSON.stringify(killed)}\n`);
    await operateOn(LOAM, output, OPTIONS, { resume: true });
    const [first] = readFileSync(join(output, "physarium/runs.jsonl"), "utf8").split("\n");
    const known = (JSON.parse(first) as { wall_seconds: number }).wall_seconds;
    expect(known).toBeGreaterThan(0);
    expect(known).toBeLessThanOrEqual(wall_seconds + 0.01);
  });

  test("another seed is another operation, and what differs is said by name", async () => {
    await expect(operateOn(LOAM, whole, { ...OPTIONS, seed: 1 }, { resume: true })).rejects.toMatchObject({
      code: "USAGE_RESUME_MISMATCH",
      message: expect.stringContaining("another operation: activation.seed was 0 and is 1;"),
    });
  });

  test("too little calibration is warned of, in the report, too", async () => {
    const text = join(folder, "short.txt");
    writeFileSync(text, "Once upon a time there was a little red house by the sea, and nobody lived in it.");
    const events: SurgeryEvent[] = [];
    const only = { ...OPTIONS, include: "0.self_attn.v_proj", calibration: text, samples: 9, window: 8 };
    const { report } = await operateOn(LOAM, join(folder, "few"), only, { onEvent: (event) => events.push(event) });
    const found = report.warnings.map(({ message }) => message);
    expect(found[0]).toMatch(/gives \d of the 9 samples asked for/);
    expect(found[1]).toMatch(/\d+ calibration tokens cannot tell the 256 inputs/);
    expect(events.filter(({ event }) => event === "warning")).toHaveLength(2);
  });

  test.each([
    ["a target", "model.layers.2.mlp.up_proj.weight", 300, /up_proj\.weight" is NaN or infinite at row 1, column 44/],
    ["a norm", "model.layers.1.input_layernorm.weight", 7, /layer 1: the inputs of qkv are NaN or infinite/],
    // Row 2047 is the token every text begins with.
    ["an embedding", "model.embed_tokens.weight", 256 * 2047, /layer 0: the inputs of qkv/],
  ])("NaN in %s is refused with its place, and nothing is left", async (name, tensor, element, message) => {
    const [damaged, output] = [join(folder, `nan ${name}`), join(folder, `from ${name}`)];
    cpSync(LOAM, damaged, { recursive: true });
    const { shards } = planSurgery(await openDonor(damaged), checkOptions({}));
    const { path, tensors } = shards.find((shard) => shard.tensors.some((candidate) => candidate.name === tensor))!;
    const { byteOffset } = tensors.find((candidate) => candidate.name === tensor)!;
    const bytes = readFileSync(path);
    bytes.writeUInt16LE(0x7fc0, byteOffset + 2 * element);
    writeFileSync(path, bytes);
    const run = operateOn(damaged, output, { ...OPTIONS, include: "(v|up)_proj\\.weight", samples: 2 });
    await expect(run).rejects.toMatchObject({ code: "DONOR_NON_FINITE", message: expect.stringMatching(message) });
    expect(existsSync(output)).toBe(false);
    expect(existsSync(`${output}.partial`)).toBe(false);
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
      const { report } = await operateOn(LOAM, join(folder, name), { ...one, ...more });
      expect(renderMarkdown(report).includes("1 tensor of 1 were used in tiles")).toBe(name === "tiles");
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

  test.each<[string, SurgeryOptions, string]>([
    ["NaN kept", { allowNonFinite: true }, "USAGE_PARAM"],
    ["a pattern and a survival", { targetSparsity: undefined, pattern: "2:4", survival: 0.3 }, "USAGE_PARAM"],
    ["nothing to allocate", { targetSparsity: undefined, allocation: "owl" }, "USAGE_PARAM"],
    ["a protocol without a text", { protocol: { protocol: "documents" } }, "USAGE_PARAM"],
    ["no memory", { memoryBytes: 0 }, "USAGE_PARAM"],
    ["too little memory for the samples", { memoryBytes: 1e5 }, "USAGE_MEMORY"],
    ["a window the model cannot see", { window: 4096 }, "USAGE_WINDOW"],
    [
      "a text too short",
      { calibration: "LICENSE", window: 128, protocol: { protocol: "documents", minTokens: 500 } },
      "USAGE_TEXT_SHORT",
    ],
    ["a matrix that is no projection", { include: "embed_tokens" }, "USAGE_TARGET"],
  ])("refused before anything is written: %s", async (name, more, code) => {
    const output = join(folder, name);
    await expect(operateOn(LOAM, output, { ...OPTIONS, ...more })).rejects.toMatchObject({ code });
    expect(existsSync(output)).toBe(false);
    expect(existsSync(`${output}.partial`)).toBe(false);
  });

  test("calibrates as compare does: on documents, each from BOS", async () => {
    const text = join(folder, "documents.txt");
    const donor = await openDonor(LOAM);
    writeFileSync(text, ["Once upon a time", "There was a little red house", "The end"].join("<|endoftext|>"));
    const source = await openCalibration(await LayerRunner.open(donor), {
      path: text,
      samples: 8,
      window: 8,
      protocol: { protocol: "documents" },
    });
    const { sequences, record } = await source.take();
    expect(sequences).toHaveLength(3);
    const output = join(folder, "documents");
    await operateOn(LOAM, output, { ...OPTIONS, calibration: text, window: 8, protocol: { protocol: "documents" } });
    const ledger = readFileSync(join(output, "physarium/ledger.jsonl"), "utf8");
    expect(ledger).toContain(`"ids_sha256":"${record.ids_sha256}"`);
  });

  test("a run calibrated on other tokens is not gone on with", () => {
    const record = { text: null, sha256: null, samples: 1, window: 8, tokens: 8, seed: 0, ids_sha256: "a".repeat(64) };
    expect(() => checkSameCalibration(record, record, "out")).not.toThrow();
    expect(() => checkSameCalibration(record, { ...record, ids_sha256: "b".repeat(64) }, "out")).toThrow(
      /other tokens/,
    );
  });

  test("a donor with zeros: what lives again is no longer counted as zero, in tensors and layers alike", async () => {
    const [sparse, output] = [join(folder, "sparse"), join(folder, "sparse-v2")];
    await operateOn(LOAM, sparse, { include: "self_attn\\.[kv]_proj\\.weight", survival: 0.355 });
    const { report } = await operateOn(sparse, output, { ...OPTIONS, targetSparsity: 0.5 });
    const revived = tensorRecords(output).reduce((sum, record) => sum + (record.revived ?? 0), 0);
    expect(revived).toBeGreaterThan(0);
    for (const { sparsity, min, max } of report.per_layer) {
      expect(sparsity).toBeCloseTo(0.5, 3);
      expect(sparsity).toBeGreaterThanOrEqual(min - 1e-12);
      expect(sparsity).toBeLessThanOrEqual(max + 1e-12);
    }
    expect((await verify(output, { donorPath: sparse, workers: 0 })).differences).toEqual([]);
    // What the report prints is what stands in the file.
    const markdown = renderMarkdown(report);
    const { target_weights, killed, already_zero } = report.totals;
    const zeros = killed + already_zero - revived;
    expect(markdown).toContain(`Revived: zero before, alive now | ${revived.toLocaleString("en-US")}`);
    expect(markdown).toContain(
      `Zero now, of the target projection weights | ${((100 * zeros) / target_weights).toFixed(2)} %`,
    );
    expect(layerGrid(report.per_tensor).max).toBeLessThan(0.502);
    expect(renderHtml(report)).toContain((target_weights - zeros).toLocaleString("en-US"));
  });

  test("options of v2 are refused for flows that look at weights alone", async () => {
    await expect(operateOn(LOAM, join(folder, "x"), { calibration: "book.txt" })).rejects.toMatchObject({
      code: "USAGE_PARAM",
    });
    for (const options of [{ heal: false }, { memoryBytes: 2 ** 30 }, { protocol: { protocol: "documents" } }] as const)
      await expect(operateOn(LOAM, join(folder, "x"), options)).rejects.toMatchObject({ code: "USAGE_PARAM" });
  });
});
