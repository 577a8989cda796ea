import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { exportGguf } from "../../dist/export/gguf/export.js";
import { evaluate } from "../../dist/probe/evaluate.js";
import { hasEngine } from "../probe/engine-present.js";
import { temporaryFolder } from "../temporary.js";
import { smallConfig, writeDonor } from "./random-donor.js";

const folder = temporaryFolder();
const text = join(folder, "text.txt");
writeFileSync(text, "Once upon a time there was a mould that lived in a wood. ".repeat(10));
const plain = writeDonor(join(folder, "plain"), { config: smallConfig("llama"), tokenizer: true });

type Entry = { dtype: string; shape: number[]; data_offsets: [number, number] };

/** The plain donor under other names, and with tensors of one row beside its own. */
function renamed(name: string, rename: (tensor: string) => string, extra: readonly string[] = []): string {
  const copy = join(folder, name);
  cpSync(plain, copy, { recursive: true });
  const bytes = readFileSync(join(plain, "model.safetensors"));
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, 8 + length).toString()) as Record<string, Entry>;
  const data = bytes.subarray(8 + length);
  const entries = Object.entries(header).map(([tensor, entry]) => [rename(tensor), entry] as const);
  extra.forEach((tensor, at) => {
    const begin = data.length + 128 * at;
    entries.push([tensor, { dtype: "BF16", shape: [1, 64], data_offsets: [begin, begin + 128] }]);
  });
  const text = JSON.stringify(Object.fromEntries(entries));
  const padded = Buffer.from(text + " ".repeat((8 - (text.length % 8)) % 8));
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(padded.length));
  const more = Buffer.alloc(128 * extra.length, 1);
  writeFileSync(join(copy, "model.safetensors"), Buffer.concat([size, padded, data, more]));
  return copy;
}

const nll = async (model: string) => (await evaluate(model, text, { window: 32 })).quality.model.mean_nll;
const fileOf = async (model: string, name: string) => {
  const path = join(folder, name);
  const { leftOut } = await exportGguf(model, path, { type: "F32" });
  return { bytes: readFileSync(path).subarray(-20_000), leftOut };
};

const WRAPPERS: [string, (tensor: string) => string][] = [
  ["torch.compile", (tensor) => `_orig_mod.${tensor}`],
  ["an adapter library", (tensor) => `base_model.model.${tensor}`],
  ["a model that sees", (tensor) => (tensor.startsWith("lm_head") ? tensor : `language_model.${tensor}`)],
  [
    "an adapter library, around two matrices",
    (tensor) => `base_model.model.${tensor.replace(/([qv]_proj)\.weight$/, "$1.base_layer.weight")}`,
  ],
];

describe("names in a wrapper", () => {
  for (const [who, rename] of WRAPPERS) {
    test(`${who}: export writes the same weights`, async () => {
      const { bytes } = await fileOf(renamed(`out ${who}`, rename), `${who}.gguf`);
      expect(bytes.equals((await fileOf(plain, `plain ${who}.gguf`)).bytes)).toBe(true);
    });

    test.skipIf(!hasEngine)(`${who}: eval gives the same number`, async () => {
      expect(await nll(renamed(`eval ${who}`, rename))).toBe(await nll(plain));
    });
  }
});

describe("what stands beside the decoder", () => {
  const same = (tensor: string) => tensor;

  test("export leaves draft heads and towers out and says whose they are", async () => {
    const beside = ["mtp.layers.0.mlp.up_proj.weight", "mtp.fc.weight", "model.vision_tower.patch.weight"];
    const after = "model.layers.2.mlp.up_proj.weight";
    const { leftOut } = await fileOf(renamed("beside", same, [...beside, after]), "beside.gguf");
    expect(Object.fromEntries(leftOut.map(({ name, reason }) => [name, reason.slice(0, 12)]))).toEqual({
      "mtp.layers.0.mlp.up_proj.weight": "of a draft h",
      "mtp.fc.weight": "of a draft h",
      "model.vision_tower.patch.weight": "of a tower o",
      "model.layers.2.mlp.up_proj.weight": "of a layer a",
    });
  });

  test("a name of the decoder that sounds like a tower is refused, not left out", async () => {
    const odd = renamed("odd", same, ["model.layers.0.vision_mlp.up_proj.weight"]);
    await expect(fileOf(odd, "odd.gguf")).rejects.toMatchObject({ code: "DONOR_EXPORT_TENSOR" });
  });

  test("an adapter that was not merged is named as one, by export and eval", async () => {
    const factors = renamed("factors", WRAPPERS[3][1], [
      "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight",
    ]);
    await expect(fileOf(factors, "factors.gguf")).rejects.toMatchObject({ code: "DONOR_ADAPTER" });
    await expect(evaluate(factors, text, { window: 32 })).rejects.toMatchObject({ code: "DONOR_ADAPTER" });
  });
});
