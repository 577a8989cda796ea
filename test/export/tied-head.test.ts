import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { exportGguf } from "../../dist/export/gguf/export.js";
import { importGguf } from "../../dist/export/gguf/import.js";
import { evaluate } from "../../dist/probe/evaluate.js";
import { hasEngine } from "../probe/engine-present.js";
import { temporaryFolder } from "../temporary.js";
import { smallConfig, writeDonor } from "./random-donor.js";

const folder = temporaryFolder();
const config = smallConfig("llama", { tie_word_embeddings: true });
const text = join(folder, "text.txt");
writeFileSync(text, "Once upon a time there was a mould that lived in a wood. ".repeat(10));

/** A donor whose configuration ties its head, and which holds one all the same. */
function donorWith(name: string, isCopy: boolean): string {
  let embedding: Float32Array | undefined;
  return writeDonor(join(folder, name), {
    config,
    tokenizer: true,
    withOptional: ["lm_head"],
    change: (tensor, weights) => {
      if (tensor === "model.embed_tokens.weight") embedding = weights;
      return isCopy && tensor === "lm_head.weight" ? embedding : weights;
    },
  });
}

describe("a head in the file, and a configuration that ties it", () => {
  test("another head is written and said, and comes back", async () => {
    const donor = donorWith("other", false);
    const { tensors, leftOut, warnings } = await exportGguf(donor, join(folder, "other.gguf"), { type: "F32" });
    expect(tensors.map(({ ggufName }) => ggufName)).toContain("output.weight");
    expect(leftOut).toEqual([]);
    expect(warnings.join()).toMatch(/holds another lm_head\.weight: it is written/);
    await importGguf(join(folder, "other.gguf"), join(folder, "again"), { dtype: "F32" });
    const again = JSON.parse(readFileSync(join(folder, "again", "config.json"), "utf8"));
    expect(again.tie_word_embeddings).toBe(false);
  });

  test("an equal copy is left out and named", async () => {
    const { tensors, leftOut } = await exportGguf(donorWith("copy", true), join(folder, "copy.gguf"), { type: "F32" });
    expect(tensors.map(({ ggufName }) => ggufName)).not.toContain("output.weight");
    expect(leftOut).toEqual([{ name: "lm_head.weight", reason: expect.stringMatching(/an equal copy/) }]);
  });

  test.skipIf(!hasEngine)("eval says which head it used", async () => {
    const hints = async (name: string, isCopy: boolean) =>
      (await evaluate(donorWith(name, isCopy), text, { window: 32 })).hints.join();
    expect(await hints("eval-other", false)).toMatch(/another lm_head\.weight: the file's is used/);
    expect(await hints("eval-copy", true)).toMatch(/an equal copy of the embedding/);
    const { warnings } = await evaluate(donorWith("eval-warned", false), text, { window: 32 });
    expect(warnings.map(({ code }) => code)).toEqual(["WARN_TIED_HEAD"]);
  });
});

test("config.json with a byte order mark and NaN is read by export", async () => {
  const donor = writeDonor(join(folder, "mark"), { config: smallConfig("llama"), tokenizer: true });
  const path = join(donor, "config.json");
  const spoiled = readFileSync(path, "utf8").replace("{", '{"loss": NaN, ');
  writeFileSync(path, `\uFEFF${spoiled}`);
  expect((await exportGguf(donor, join(folder, "mark.gguf"), { type: "F32" })).architecture).toBe("llama");
});
