import { cpSync, readdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { verify } from "../../dist/audit/verify.js";
import { addSections, renderDocuments } from "../../dist/report/documents.js";
import { gaussianTensor, randomNumbers, toWeights, writeDonor } from "../donors.js";
import { operateOn } from "../surgery/operate.js";
import { temporaryFolder } from "../temporary.js";

const folder = temporaryFolder();
const donor = join(folder, "donor");
const clean = join(folder, "clean");

beforeAll(async () => {
  writeDonor(
    donor,
    [
      [
        gaussianTensor("model.layers.0.mlp.up_proj.weight", "BF16", [20, 30], 1),
        gaussianTensor("model.embed_tokens.weight", "BF16", [8, 30], 2),
      ],
      [
        gaussianTensor("model.layers.0.self_attn.q_proj.weight", "F32", [10, 9], 3),
        { name: "model.norm.weight", dtype: "F32", shape: [4], bytes: toWeights("F32", 4, () => 1) },
      ],
    ],
    { "config.json": '{"model_type":"llama"}', "tokenizer.json": "{}" },
  );
  await operateOn(donor, clean, { blockSize: 16 }, { render: renderDocuments });
});

/** Verify a copy of the clean output that `damage` was done to. */
async function verifyDamaged(damage: (output: string) => void | Promise<void>, withDonor = true) {
  const output = join(folder, "damaged");
  rmSync(output, { recursive: true, force: true });
  cpSync(clean, output, { recursive: true });
  await damage(output);
  return verify(output, { workers: 0, parity: "full", ...(withDonor ? { donorPath: donor } : {}) });
}

function flip(path: string, position: number, bit: number): void {
  const bytes = readFileSync(path);
  bytes[position] ^= 1 << bit;
  writeFileSync(path, bytes);
}

test("the clean output holds, with its donor and alone", async () => {
  for (const donorPath of [donor, undefined]) {
    const result = await verify(clean, { workers: 0, ...(donorPath === undefined ? {} : { donorPath }) });
    expect(result.differences).toEqual([]);
    expect(result.ok).toBe(true);
  }
});

describe("a flipped bit anywhere", () => {
  const names = [
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "tokenizer.json",
  ];

  test.each(names)("in %s is found, with the donor and by the digests alone", async (name) => {
    const size = statSync(join(clean, name)).size;
    const random = randomNumbers(size);
    // Every region of the file, and random places in between.
    const positions = new Set(
      [0, 1, 7, 8, 9, size >> 1, size - 1, ...Array.from({ length: 25 }, () => Math.floor(random() * size))].filter(
        (p) => p < size,
      ),
    );
    for (const position of positions) {
      for (const withDonor of [true, false]) {
        const { ok, differences } = await verifyDamaged(
          (output) => flip(join(output, name), position, Math.floor(random() * 8)),
          withDonor,
        );
        expect({ name, position, withDonor, ok }).toEqual({ name, position, withDonor, ok: false });
        expect(differences.length).toBeGreaterThan(0);
      }
    }
  });
});

describe("counts that disagree", () => {
  const edit = (file: string, change: (text: string) => string) => (output: string) => {
    const path = join(output, "physarium", file);
    const text = readFileSync(path, "utf8");
    const changed = change(text);
    expect(changed).not.toBe(text);
    writeFileSync(path, changed);
  };
  test.each([
    ["ledger.jsonl", /"killed":(\d+)/],
    ["ledger.jsonl", /"already_zero":(\d+)/],
    ["ledger.jsonl", /"sparsity":0.(\d+)/],
    ["ledger.jsonl", /"weights":(\d+)/],
    ["ledger.jsonl", /"tiles":(\d+)/],
    ["ledger.jsonl", /"killed_cumulative":(\d+)/],
    ["ledger.jsonl", /"byte_offset":(\d+)/],
    ["ledger.jsonl", /"digest":"(\d)/],
    ["surgery.json", /"killed": (\d+)/],
    ["surgery.json", /"target_weights": (\d+)/],
    ["surgery.json", /"tiles": (\d+)/],
    ["surgery.json", /"killed_of_model": 0.(\d+)/],
    ["surgery.json", /"killed_cumulative": (\d+)/],
    ["surgery.json", /"failed_tensors": (\d+)/],
  ])("%s %s", async (file, pattern) => {
    const change = (text: string) =>
      text.replace(
        pattern,
        (all: string, digits: string) =>
          all.slice(0, all.length - digits.length) + String(Number(digits[0]) === 1 ? 2 : 1) + digits.slice(1),
      );
    const { ok, differences } = await verifyDamaged(edit(file, change));
    expect(ok).toBe(false);
    expect(differences.length).toBeGreaterThan(0);
  });

  test("a tensor record that is missing, and one too many", async () => {
    const drop = await verifyDamaged(
      edit("ledger.jsonl", (text) =>
        text
          .split("\n")
          .filter((line) => !line.includes('"name":"model.norm.weight"'))
          .join("\n"),
      ),
    );
    expect(drop.differences.map(({ message }) => message)).toContain("the ledger misses this tensor");
    const add = await verifyDamaged(
      edit("ledger.jsonl", (text) =>
        text.replace(/(\{"kind":"tensor".*?"name":")model\.norm\.weight(".*\n)/, "$1ghost$2$1model.norm.weight$2"),
      ),
    );
    expect(add.differences.map(({ where }) => where)).toContain('tensor "ghost"');
  });
});

describe("folders", () => {
  test("every difference is listed, not the first one", async () => {
    const { differences } = await verifyDamaged((output) => {
      rmSync(join(output, "tokenizer.json"));
      flip(join(output, "config.json"), 3, 0);
      writeFileSync(join(output, "extra.safetensors"), "x");
      truncateSync(join(output, "model-00002-of-00002.safetensors"), 300);
    });
    const places = differences.map(({ where }) => where).join(" ");
    for (const name of ["tokenizer.json", "config.json", "extra.safetensors", "model-00002-of-00002.safetensors"])
      expect(places).toContain(name);
  });

  test("a missing shard", async () => {
    const { differences } = await verifyDamaged((output) => rmSync(join(output, "model-00001-of-00002.safetensors")));
    expect(differences[0]).toMatchObject({ check: "shards present", where: "model-00001-of-00002.safetensors" });
  });

  test("a survivor changed and a dead weight revived are told with row and column", async () => {
    const { differences } = await verifyDamaged((output) =>
      flip(
        join(output, "model-00001-of-00002.safetensors"),
        statSync(join(output, "model-00001-of-00002.safetensors")).size - 8 * 30 * 2 - 2,
        0,
      ),
    );
    expect(differences.map(({ message }) => message).join()).toMatch(/row 19, column 29/);
  });

  test("no ledger: not an output", async () => {
    await expect(
      verifyDamaged((output) => rmSync(join(output, "physarium"), { recursive: true })),
    ).rejects.toMatchObject({ code: "VERIFY_OUTPUT" });
  });

  test("a broken donor is the donor's fault", async () => {
    const broken = join(folder, "broken-donor");
    cpSync(donor, broken, { recursive: true });
    truncateSync(join(broken, "model-00001-of-00002.safetensors"), 100);
    await expect(verify(clean, { donorPath: broken })).rejects.toMatchObject({
      code: expect.stringMatching(/^DONOR_/),
    });
  });
});

test("a section added later is rendered and does not disturb verify", async () => {
  const { ok } = await verifyDamaged(async (output) => {
    await addSections(output, {
      integrity: {
        verified_at: "2026-01-01T00:00:00Z",
        ok: true,
        checks: [],
        difference_count: 0,
        parity: { mode: "sample", tiles_checked: 1, tiles_total: 2, weights_checked: 3 },
      },
    });
    expect(readdirSync(join(output, "physarium")).sort()).toEqual([
      "REPORT.md",
      "ledger.jsonl",
      "report.html",
      "run.log",
      "runs.jsonl",
      "surgery.json",
    ]);
  });
  expect(ok).toBe(true);
});
