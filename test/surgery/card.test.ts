import { cpSync, type PathLike, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { verify } from "../../dist/audit/verify.js";
import { nodeFiles } from "../../dist/checkpoint/file-layer.js";
import { finishParts } from "../../dist/parts/finish.js";
import { runPart } from "../../dist/parts/part-run.js";
import { copiedNames, renewCard } from "../../dist/record/card.js";
import { readDocuments } from "../../dist/record/open-record.js";
import { generateKey, parsePrivateKey, signOutput } from "../../dist/record/signature.js";
import { addSections, renderCard, renderDocuments } from "../../dist/report/documents.js";
import { gaussianTensor, writeDonor } from "../donors.js";
import { prepare } from "../parts/parts.js";
import { physarium } from "../physarium.js";
import { qualityNumbers } from "../report/fixtures.js";
import { temporaryFolder } from "../temporary.js";
import { filesOf, operateOn } from "./operate.js";

const folder = temporaryFolder();
const README = "---\nlicense: mit\nlanguage: [en]\ntags:\n- tiny\n---\n# loam \r\n\u00ff\n";
const tensors = [gaussianTensor("model.layers.0.mlp.up_proj.weight", "BF16", [40, 30], 1)];
const donor = writeDonor(join(folder, "donor"), [tensors], { "README.md": README, "config.json": "{}" });
const bare = writeDonor(join(folder, "bare"), [tensors], { "config.json": "{}" });
const run = { render: renderDocuments, card: renderCard };
const clean = join(folder, "clean");
let count = 0;
const fresh = () => join(folder, `output-${count++}`);

beforeAll(async () => {
  await operateOn(donor, clean, { blockSize: 16 }, run);
});

function copyOf(output: string): string {
  const copy = fresh();
  cpSync(output, copy, { recursive: true });
  return copy;
}

const read = (output: string, name = "README.md") => readFileSync(join(output, name), "utf8");
const differences = async (output: string, donorPath?: string) =>
  (await verify(output, { donorPath, workers: 0 })).differences.map(({ where, message }) => `${where}: ${message}`);

describe("the card of an output", () => {
  test("carries the licence on, states both denominators, keeps the donor's byte for byte; it verifies", async () => {
    const card = read(clean);
    for (const part of [
      "license: mit\nlanguage: [en]\ntags:\n- tiny\n- physarium\n",
      "of the target projection weights",
      "of the full model",
      "physarium verify BASE_MODEL_FOLDER FOLDER",
      "[README.donor.md](README.donor.md)",
    ]) {
      expect(card).toContain(part);
    }
    expect(readFileSync(join(clean, "README.donor.md"))).toEqual(readFileSync(join(donor, "README.md")));
    expect(await differences(clean, donor)).toEqual([]);
    expect(await differences(clean)).toEqual([]);
    expect(read(clean, "physarium/REPORT.md")).toContain("the donor's is kept as `README.donor.md`");
    expect(read(clean, "physarium/run.log")).toMatch(/README\.md {2}\d+ bytes {2}written, the model card/);
  });

  test("is the same whenever and on however many machines it is made", async () => {
    const again = fresh();
    await operateOn(donor, again, { blockSize: 16, workers: 2 }, run);
    expect(filesOf(again)).toEqual(filesOf(clean));
    const joined = fresh();
    const { plan } = await prepare(donor, joined, 3, { blockSize: 16 });
    for (const { part } of plan.parts) await runPart(joined, part, { workers: 0 });
    await finishParts(joined, { workers: 0, ...run });
    expect(filesOf(joined)).toEqual(filesOf(clean));
    expect(await differences(joined, donor)).toEqual([]);
  });

  test("is made where the donor has none, and is not where it is unwanted", async () => {
    const [made, unwanted] = [fresh(), fresh()];
    await operateOn(bare, made, {}, run);
    expect(await differences(made, bare)).toEqual([]);
    expect(readdirSync(made).sort()).toEqual(["README.md", "config.json", "model.safetensors", "physarium"]);
    await operateOn(donor, unwanted, {}, { render: renderDocuments });
    expect(read(unwanted)).toBe(README);
    expect(readdirSync(unwanted)).not.toContain("README.donor.md");
    expect(await differences(unwanted, donor)).toEqual([]);
  });

  test("of an output that is operated on steps aside in its turn", async () => {
    const second = fresh();
    await operateOn(clean, second, { blockSize: 16 }, run);
    expect(await differences(second, clean)).toEqual([]);
    expect(read(second, "README.donor.2.md")).toBe(read(clean));
    expect(read(second, "README.donor.md")).toBe(README);
    expect(read(second)).toContain("license: mit");
  });

  test("of a run that stopped at its end leaves nothing behind in one that goes on without", async () => {
    const output = fresh();
    const files = {
      ...nodeFiles,
      rename: async (from: PathLike, to: PathLike) => {
        if (to === output) throw Object.assign(new Error("no"), { code: "EACCES" });
        return nodeFiles.rename(from, to);
      },
    };
    await expect(operateOn(donor, output, {}, { ...run, files })).rejects.toThrow();
    expect(readdirSync(`${output}.partial`)).toContain("README.donor.md");
    await operateOn(donor, output, {}, { render: renderDocuments, resume: true });
    expect(await differences(output, donor)).toEqual([]);
    expect(read(output)).toBe(README);
  });
});

describe("a damaged card is found", () => {
  test.each([
    ["its own bytes", "README.md", /README\.md: its digest is not the one in the ledger/],
    ["the donor's", "README.donor.md", /README\.donor\.md: its bytes are not those of the donor's README\.md/],
  ])("%s", async (_, name, message) => {
    const output = copyOf(clean);
    writeFileSync(join(output, name), "something else");
    expect(await differences(output, donor)).toContainEqual(expect.stringMatching(message));
    rmSync(join(output, name));
    expect(await differences(output, donor)).toContainEqual(`${name}: the file is missing`);
  });

  test("and a ledger that says a card is ours cannot hide what happened to another file", async () => {
    const output = copyOf(clean);
    const ledger = join(output, "physarium/ledger.jsonl");
    const lines = readFileSync(ledger, "utf8").replace('"file":"config.json"', '"made":"card","file":"config.json"');
    writeFileSync(ledger, lines);
    writeFileSync(join(output, "config.json"), "{ }");
    expect(await differences(output, donor)).toContain("config.json: its bytes are not the donor's");
  });
});

describe("what was measured", () => {
  const quality = qualityNumbers();

  test("comes into a new card, and the output verifies", async () => {
    const output = copyOf(clean);
    await addSections(output, { quality });
    expect(read(output)).toContain("| Perplexity |");
    expect(read(output)).toContain("license: mit");
    expect(await differences(output, donor)).toEqual([]);
    const ledger = read(output, "physarium/ledger.jsonl");
    await addSections(output, { quality });
    expect(read(output, "physarium/ledger.jsonl")).toBe(ledger);
  });

  test("leaves a card alone that is signed, that somebody wrote, or that was not wanted", async () => {
    const signed = copyOf(clean);
    const { privateKey, publicKey } = generateKey();
    await signOutput(signed, parsePrivateKey(privateKey, "key"));
    await addSections(signed, { quality });
    expect(read(signed)).toBe(read(clean));
    expect((await verify(signed, { publicKey, workers: 0 })).differences).toEqual([]);
    const written = copyOf(clean);
    writeFileSync(join(written, "README.md"), "mine");
    await addSections(written, { quality });
    expect(read(written)).toBe("mine");
    const unwanted = fresh();
    await operateOn(donor, unwanted, {}, { render: renderDocuments });
    await addSections(unwanted, { quality });
    expect(read(unwanted)).toBe(README);
  });

  test("verifies at every moment of its coming", async () => {
    const output = copyOf(clean);
    const report = { ...(await readDocuments(output)), quality };
    const files = {
      ...nodeFiles,
      rename: async (from: PathLike, to: PathLike) => {
        if (`${to}`.endsWith("README.md")) throw Object.assign(new Error("killed"), { code: "EIO" });
        return nodeFiles.rename(from, to);
      },
    };
    await expect(renewCard(output, (card) => renderCard(report, card), files)).rejects.toThrow();
    expect(read(output)).toBe(read(clean));
    expect(await differences(output, donor)).toEqual([]);
    await addSections(output, { quality });
    expect(read(output)).toContain("| Perplexity |");
    expect(await differences(output, donor)).toEqual([]);
  });
});

test("names step aside from every file of the donor, in whatever case", () => {
  const names = (files: string[]) => copiedNames(files, true).map(({ file }) => file);
  expect(names(["a", "readme.md"])).toEqual(["a", "README.donor.md"]);
  expect(names(["README.md", "Readme.Donor.md", "readme.md"])).toEqual([
    "README.donor.2.md",
    "Readme.Donor.md",
    "readme.md",
  ]);
  expect(copiedNames(["README.md"], false)).toEqual([{ file: "README.md", from: "README.md" }]);
});

test("surgery writes one without being asked; --no-card and parts finish --no-card do not", async () => {
  const [made, unwanted, joined] = [fresh(), fresh(), fresh()];
  expect((await physarium(["surgery", donor, made, "--quiet"])).status).toBe(0);
  expect(read(made)).toContain("base model");
  expect((await physarium(["verify", donor, made])).status).toBe(0);
  expect((await physarium(["surgery", donor, unwanted, "--no-card", "--quiet"])).status).toBe(0);
  expect(read(unwanted)).toBe(README);
  await prepare(donor, joined, 1);
  await runPart(joined, 0, { workers: 0 });
  const { status, stderr } = await physarium(["parts", "finish", joined, "--no-card", "--quiet"]);
  expect(status, stderr).toBe(0);
  expect(read(joined)).toBe(README);
});
