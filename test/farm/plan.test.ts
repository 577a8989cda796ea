import { readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { exportGguf } from "../../dist/export/gguf/export.js";
import { choose, type FormFacts } from "../../dist/farm/plan/choose.js";
import { physarium } from "../physarium.js";
import { LOAM } from "../shared.js";
import { temporaryFolder } from "../temporary.js";
import { holeyDonor, SEVEN_BILLION } from "./shapes-donor.js";

const GIB = 2 ** 30;

/** A form whose layers are alike: what it takes with so many of them on the GPU. */
function form(name: string, gib: number, kl?: number, rejected?: string): FormFacts {
  const layers = 10;
  const parts = (share: number) => ({ weights: share * gib * GIB, kv: 0, buffers: 0, total: share * gib * GIB });
  return {
    form: name,
    fileBytes: gib * GIB,
    kl,
    layers,
    ...(rejected === undefined ? {} : { rejected }),
    footprint: (gpuLayers) => {
      const share = Math.min(gpuLayers, layers) / layers;
      return { gpuLayers, vram: parts(share), ram: parts(1 - share) };
    },
  };
}

const names = (placements: readonly { form: string; tier: string; gpuLayers: number }[]) =>
  placements.map((each) => `${each.form} ${each.tier} ${each.gpuLayers}`);

test("the least measured loss that fits VRAM whole, whatever its size", () => {
  const forms = [form("q8_0", 8, 0.001), form("q6_k", 6, 0.02), form("q5_0", 5, 0.01), form("q4_k", 4, 0.03)];
  const { placements, notes } = choose(forms, "VRAM", { VRAM: 7 * GIB, RAM: 16 * GIB, SSD: 100 * GIB });
  expect(names(placements).slice(0, 3)).toEqual(["q5_0 VRAM 11", "q6_k VRAM 11", "q4_k VRAM 11"]);
  expect(placements[0].reason).toContain("least measured loss (KL 0.0100 nats)");
  // Never silently: what was passed over, and why.
  expect(placements[0].reason).toContain("q8_0 needs 8.00 GiB of 7.00 GiB");
  expect(notes[0]).toContain("q8_0 needs 8.00 GiB of 7.00 GiB");
});

test("else as many layers as fit, of the form of least loss; else RAM; else nothing", () => {
  const forms = [form("q8_0", 8, 0.001), form("q4_k", 4, 0.03)];
  const split = choose(forms, "VRAM", { VRAM: 3 * GIB, RAM: 16 * GIB, SSD: 100 * GIB });
  expect(names(split.placements)).toEqual(["q8_0 VRAM 3", "q4_k VRAM 7", "q8_0 RAM 0", "q4_k RAM 0"]);
  expect(split.placements[0].reason).toContain("3 of 10 layers");
  const ram = choose(forms, "VRAM", { VRAM: 0.1 * GIB, RAM: 5 * GIB, SSD: 100 * GIB });
  expect(names(ram.placements)).toEqual(["q4_k RAM 0"]);
  expect(ram.notes.join()).toContain("not in RAM: q8_0 needs 8.00 GiB of 5.00 GiB");
  const none = choose(forms, "RAM", { VRAM: 0, RAM: GIB, SSD: 100 * GIB });
  expect(none.placements).toEqual([]);
  expect(none.notes).toHaveLength(2);
});

test("what was measured goes before what was not; what was rejected is left out and said", () => {
  const forms = [form("f16", 4), form("q8_0", 2, 0.01), form("q4_0", 1, 0.2, "KL 0.2 is over max_kl 0.05")];
  const { placements, notes } = choose(forms, "RAM", { VRAM: 0, RAM: 16 * GIB, SSD: GIB });
  expect(names(placements)).toEqual(["q8_0 RAM 0", "f16 RAM 0"]);
  expect(placements[1].reason).toContain("no loss is measured yet");
  expect(notes).toEqual(["q4_0 is left out: KL 0.2 is over max_kl 0.05"]);
});

test("gpu_layers is done exactly or refused by name: never another number, never silently RAM", () => {
  const forms = [form("q8_0", 8, 0.001), form("q4_k", 4, 0.03)];
  const budget = { VRAM: 3 * GIB, RAM: 16 * GIB, SSD: 100 * GIB };
  const three = choose(forms, "VRAM", budget, 3);
  expect(names(three.placements)).toEqual(["q8_0 VRAM 3", "q4_k VRAM 3"]);
  expect(three.placements[0].reason).toContain("gpu_layers is 3, and so it fits with the least measured loss");
  // One more is too many for the finer form alone.
  const four = choose(forms, "VRAM", budget, 4);
  expect(names(four.placements)).toEqual(["q4_k VRAM 4"]);
  expect(four.notes).toEqual([
    'gpu_layers is 4: with so many q8_0 needs 3.20 GiB of 3.00 GiB VRAM; lower it, or say "auto"',
  ]);
  const none = choose(forms, "VRAM", { ...budget, VRAM: 0 }, 1);
  expect(none.placements).toEqual([]);
  expect(none.notes).toHaveLength(2);
  const beyond = choose(forms, "VRAM", budget, 12);
  expect(beyond.placements).toEqual([]);
  expect(beyond.notes[0]).toBe("gpu_layers is 12: q8_0 has 10 layers and the head, so 11 at most");
  const zero = choose(forms, "VRAM", budget, 0);
  expect(names(zero.placements)).toEqual(["q8_0 RAM 0", "q4_k RAM 0"]);
});

describe("the founding case: 7B shapes on 8 GB of video memory", () => {
  let planned: { bodies: Record<string, never>[] };
  let farm: string;

  beforeAll(async () => {
    farm = temporaryFolder();
    holeyDonor(SEVEN_BILLION, join(farm, "seven"));
    const forms = ["f16", "q8_0", "q6_k", "q4_k"];
    const bodies = { physarium7b: { source: "seven", forms, context: 4096, sequences: 2 } };
    const organs = [{ name: "top", body: "physarium7b" }];
    writeFileSync(
      join(farm, "organ_farm.json"),
      JSON.stringify({ version: 1, budget: { RAM: "10GiB" }, bodies, organs }),
    );
    const { stdout, stderr } = await physarium(["farm", "plan", "--file", farm, "--vram", "8GB", "--json"]);
    expect(stderr).toBe("");
    planned = JSON.parse(stdout);
  });

  test("each form by its bytes, as the exporter would write them", () => {
    const [body] = planned.bodies as unknown as {
      forms: { form: string; file_bytes: number; fits: Record<string, unknown> }[];
    }[];
    const bytes = Object.fromEntries(body.forms.map((each) => [each.form, each.file_bytes]));
    // 7,615,616,512 weights: 2 bytes; 34/32; 210/256; 144/256; vectors are F32, the rest is header.
    for (const [name, bits] of [
      ["f16", 16],
      ["q8_0", 8.5],
      ["q6_k", 6.5625],
      ["q4_k", 4.5],
    ] as const) {
      expect(bytes[name] / ((7_615_616_512 * bits) / 8)).toBeCloseTo(1, 3);
    }
  });

  test("15 GB do not fit, q8_0 does not, q6_k does: chosen with its reason", () => {
    const [body] = planned.bodies as unknown as {
      chosen: { form: string; tier: string; gpu_layers: number; reason: string; need: { VRAM: number } };
      notes: string[];
    }[];
    expect(body.chosen).toMatchObject({ form: "q6_k", tier: "VRAM", gpu_layers: 29 });
    expect(body.chosen.need.VRAM).toBeLessThan(8e9);
    expect(body.chosen.reason).toContain("no loss is measured yet");
    expect(body.notes[0]).toMatch(/not whole in VRAM: f16 needs .* q8_0 needs/);
  });

  test("keys, values and buffers are those llama.cpp says of this model", () => {
    type Layers = { gpu_layers: number; vram: { kv: number; buffers: number } }[];
    const [body] = planned.bodies as unknown as { forms: { layers: Layers }[] }[];
    const all = body.forms[1].layers.find(({ gpu_layers }) => gpu_layers === 29)!;
    // 28 layers × 4 heads × 128 × 2 × 2 bytes × 8192 cells; compute buffer 304 MiB, and 300 MiB for the driver.
    expect(all.vram.kv).toBe(28 * 4 * 128 * 2 * 2 * 8192);
    expect(all.vram.buffers).toBe((304 + 300) << 20);
  });

  test("with less video memory some layers go there; with none the body goes to RAM", async () => {
    const chosen = async (vram: string) => {
      const { stdout } = await physarium(["farm", "plan", "--file", farm, "--vram", vram, "--json"]);
      return JSON.parse(stdout).bodies[0].chosen;
    };
    expect(await chosen("4GB")).toMatchObject({ form: "q8_0", tier: "VRAM" });
    expect((await chosen("4GB")).gpu_layers).toBeGreaterThan(8);
    expect(await chosen("0B")).toMatchObject({ form: "q8_0", tier: "RAM", gpu_layers: 0 });
  });

  test("gpu_layers of the file: that many, or a reason why not", async () => {
    const path = join(farm, "organ_farm.json");
    const before = readFileSync(path, "utf8");
    const planWith = async (gpu_layers: number) => {
      const file = JSON.parse(before);
      file.bodies.physarium7b.gpu_layers = gpu_layers;
      writeFileSync(path, JSON.stringify(file));
      return physarium(["farm", "plan", "--file", farm, "--vram", "8GB"]);
    };
    const ten = await planWith(10);
    expect(ten.stdout).toContain("wanted in VRAM with gpu_layers 10");
    expect(ten.stdout).toMatch(/q8_0 +10 of 28 /);
    expect(ten.stdout).toMatch(/chosen {2}q8_0, 10 layers in VRAM/);
    const all = await planWith(29);
    expect(all.stdout).toContain("chosen  q6_k, 29 layers in VRAM");
    expect(all.stdout).toContain("note    gpu_layers is 29: with so many q8_0 needs");
    const beyond = await planWith(30);
    expect(beyond.status).toBe(2);
    expect(beyond.stderr).toContain("gpu_layers is 30, the model has 28 layers and a head: 29 at most");
    writeFileSync(path, before);
  });

  test("the table for people names the choice and what did not fit", async () => {
    const { stdout } = await physarium(["farm", "plan", "--file", farm, "--vram", "8GB"]);
    expect(stdout).toContain("chosen  q6_k, 29 layers in VRAM");
    expect(stdout).toContain("note    not whole in VRAM: f16 needs");
  });
});

test("a form's planned bytes are the written file's", async () => {
  const folder = temporaryFolder();
  const bodies = { loam: { source: LOAM, forms: ["f32", "q8_0", "q4_k"] } };
  writeFileSync(join(folder, "organ_farm.json"), JSON.stringify({ version: 1, bodies, organs: [] }));
  const { stdout } = await physarium(["farm", "plan", "--file", folder, "--json", "--allow-absolute-paths"]);
  for (const { form: name, file_bytes } of JSON.parse(stdout).bodies[0].forms) {
    const path = join(folder, `${name}.gguf`);
    await exportGguf(LOAM, path, { type: name.toUpperCase() });
    expect(statSync(path).size).toBe(file_bytes);
  }
});
