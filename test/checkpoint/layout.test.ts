import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeEach, describe, expect, test } from "vitest";
import { openDonor } from "../../dist/checkpoint/donor.js";
import { modelFolder } from "../../dist/checkpoint/model-path.js";
import { parsePythonJson } from "../../dist/checkpoint/python-json.js";
import { gaussianTensor, safetensorsFile, writeDonor } from "../donors.js";
import { physarium } from "../physarium.js";
import { temporaryFolder } from "../temporary.js";

const root = temporaryFolder();
const INDEX = "model.safetensors.index.json";
const matrix = (layer: number, seed = layer) =>
  gaussianTensor(`model.layers.${layer}.mlp.up_proj.weight`, "BF16", [16, 16], seed);

let count = 0;
let folder = "";
beforeEach(() => {
  folder = join(root, String(count++));
});

/** A folder with these files and nothing else. */
function files(contents: Record<string, string | Uint8Array>): string {
  mkdirSync(folder, { recursive: true });
  for (const [name, content] of Object.entries(contents)) writeFileSync(join(folder, name), content);
  return folder;
}

const refusal = (code: string, message: RegExp) =>
  expect.objectContaining({ code, message: expect.stringMatching(message) });

describe("which files are the model", () => {
  test("model.safetensors comes before an index of other files, as loaders have it, and that is said", async () => {
    writeDonor(folder, [[matrix(0)], [matrix(1)]]);
    writeFileSync(join(folder, "model.safetensors"), safetensorsFile([matrix(0, 7), matrix(1, 8)]));
    const donor = await openDonor(folder);
    expect(donor.shards.map(({ file }) => file)).toEqual(["model.safetensors"]);
    expect(donor.warnings).toEqual([refusal("WARN_TWO_MODELS", /remove it if the shards are meant/)]);
    expect(donor.sideFiles.map(({ file }) => file)).toEqual(["config.json"]);
    expect(donor.leftOut.map(({ file }) => file)).toEqual([
      "model-00001-of-00002.safetensors",
      "model-00002-of-00002.safetensors",
      INDEX,
    ]);
    const output = `${folder}-operated`;
    const { stdout, status } = await physarium(["surgery", folder, output]);
    expect(status).toBe(0);
    expect(stdout).toMatch(/warnings/);
    expect((await physarium(["verify", folder, output])).status).toBe(0);
    const { stderr } = await physarium(["pack", folder, `${folder}-packed`]);
    expect(stderr).toMatch(/WARN_TWO_MODELS/);
  });

  test("an index that names model.safetensors is that file's", async () => {
    const path = writeDonor(folder, [[matrix(0)]]);
    writeFileSync(join(path, INDEX), JSON.stringify({ weight_map: { [matrix(0).name]: "model.safetensors" } }));
    expect(await openDonor(path)).toMatchObject({ index: expect.anything(), warnings: [], leftOut: [] });
  });

  test("one of one is the whole model, index or not; one of two is not", async () => {
    const whole = "model-00001-of-00001.safetensors";
    const path = files({ [whole]: safetensorsFile([matrix(0)]) });
    expect((await openDonor(path)).shards.map(({ file }) => file)).toEqual([whole]);
    renameSync(join(path, whole), join(path, "model-00001-of-00002.safetensors"));
    await expect(openDonor(path)).rejects.toMatchObject({ code: "DONOR_INDEX_MISSING" });
  });

  test("a byte order mark and NaN in index and config are Python's, and read", async () => {
    const path = writeDonor(folder, [[matrix(0)], [matrix(1)]], {
      "config.json": '\ufeff{"num_hidden_layers": 1, "initializer_range": NaN, "note": "NaN stays"}',
    });
    const index = readFileSync(join(path, INDEX), "utf8");
    writeFileSync(join(path, INDEX), `\ufeff${index.replace(/"total_size":\d+/, '"total_size":NaN,"x":[-Infinity]')}`);
    const donor = await openDonor(path);
    expect(donor.shards).toHaveLength(2);
    expect(donor.structure.facts.layerCount).toBe(1);
    expect(parsePythonJson(new TextEncoder().encode('{"a": [NaN, -Infinity, "Infinity \\" NaN"]}'))).toEqual({
      a: [null, null, 'Infinity " NaN'],
    });
  });
});

describe("what is no model is named, with what helps", () => {
  test.each([
    ["a GGUF folder", { "m-Q4.gguf": "GGUF" }, "DONOR_GGUF", /physarium import .*m-Q4\.gguf OUT/],
    ["PyTorch pickles", { "pytorch_model.bin": "PK" }, "DONOR_PICKLE", /save_pretrained/],
    [
      "an adapter",
      {
        "adapter_config.json": '{"base_model_name_or_path": "org/base", "peft_type": "LORA"}',
        "adapter_model.safetensors": safetensorsFile([matrix(0)]),
      },
      "DONOR_ADAPTER",
      /changes to org\/base; merge/,
    ],
    ["an adapter alone", { "adapter_model.safetensors": safetensorsFile([matrix(0)]) }, "DONOR_ADAPTER", /merge/],
    [
      "an LFS pointer",
      {
        "config.json": "{}",
        "model.safetensors": `version https://git-lfs.github.com/spec/v1\noid sha256:${"0".repeat(64)}\nsize 9\n`,
      },
      "DONOR_LFS_POINTER",
      /run git lfs pull/,
    ],
    ["nothing", { "README.md": "…" }, "DONOR_NO_WEIGHTS", /safetensors format/],
  ])("%s", async (_what, contents, code, message) => {
    await expect(openDonor(files(contents as Record<string, string>))).rejects.toEqual(refusal(code, message));
  });

  test("a pointer in place of a tokenizer is one, too", async () => {
    const path = writeDonor(folder, [[matrix(0)]], {
      "tokenizer.json": `version https://git-lfs.github.com/spec/v1\noid sha256:${"0".repeat(64)}\nsize 9\n`,
    });
    await expect(openDonor(path)).rejects.toEqual(refusal("DONOR_LFS_POINTER", /tokenizer\.json/));
  });

  test.each([
    ["m.gguf", "DONOR_GGUF", /physarium import/],
    ["model.safetensors", "DONOR_NOT_A_FOLDER", /the folder it lies in/],
    ["pytorch_model.bin", "DONOR_NOT_A_FOLDER", /the folder it lies in/],
  ])("the file %s", async (file, code, message) => {
    await expect(openDonor(join(files({ [file]: "…" }), file))).rejects.toEqual(refusal(code, message));
  });

  test("a bare name on the Hub is asked about", async () => {
    const question = /did you mean hf:\/\/org\/name/;
    await expect(modelFolder("org/name")).rejects.toEqual(refusal("DONOR_NOT_FOUND", question));
    const { status, stderr } = await physarium(["plan", "org/name"]);
    expect(status).toBe(3);
    expect(stderr).toMatch(question);
  });
});

describe("the root of a hub cache", () => {
  const cache = (snapshots: readonly string[]): string => {
    const path = join(folder, "models--org--name");
    for (const each of ["refs", "blobs", "snapshots"]) mkdirSync(join(path, each), { recursive: true });
    writeFileSync(join(path, "refs/main"), snapshots.at(-1) ?? "");
    for (const snapshot of snapshots) writeDonor(join(path, "snapshots", snapshot), [[matrix(0)]]);
    return path;
  };

  test("is its one snapshot", async () => {
    const path = cache(["abc"]);
    expect((await openDonor(path)).path).toBe(join(path, "snapshots/abc"));
    const { status, stdout } = await physarium(["plan", path]);
    expect(status).toBe(0);
    expect(stdout).toContain(join(path, "snapshots/abc"));
  });

  test("with several snapshots names them", async () => {
    await expect(openDonor(cache(["abc", "def"]))).rejects.toEqual(
      refusal("DONOR_SNAPSHOTS", /abc, def \(main\).*snapshots.def/),
    );
  });

  test("without any says so; a folder called snapshots within a model is no cache", async () => {
    await expect(openDonor(cache([]))).rejects.toEqual(refusal("DONOR_SNAPSHOTS", /download the model/));
    const model = writeDonor(join(folder, "model"), [[matrix(0)]]);
    mkdirSync(join(model, "snapshots"));
    expect((await openDonor(model)).path).toBe(model);
  });
});
