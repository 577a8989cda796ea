import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import { afterAll, afterEach, describe, expect, it, vi } from "vitest";
import { registerExport } from "../../dist/cli/export.js";
import { registerImport } from "../../dist/cli/import.js";
import { smallConfig, writeDonor } from "./random-donor.js";

const scratch = mkdtempSync(join(tmpdir(), "physarium-cli-"));
afterAll(() => rmSync(scratch, { recursive: true }));
afterEach(() => vi.restoreAllMocks());

/** Run a command in this process; what it wrote to stdout. */
async function run(...args: string[]): Promise<string> {
  const written: string[] = [];
  vi.spyOn(process.stdout, "write").mockImplementation((text) => written.push(String(text)) > 0);
  const program = new Command().exitOverride().configureOutput({ writeErr: () => {} });
  registerExport(program);
  registerImport(program);
  try {
    await program.parseAsync(args, { from: "user" });
  } finally {
    vi.mocked(process.stdout.write).mockRestore();
  }
  return written.join("");
}

describe("export and import", () => {
  const donor = writeDonor(join(scratch, "donor"), {
    config: smallConfig("llama", { intermediate_size: 100 }),
    sparsity: 0.25,
    tokenizer: true,
  });

  it("gguf: one JSON object with every tensor; then back", async () => {
    const file = join(scratch, "a.gguf");
    const result = JSON.parse(await run("export", donor, file, "--type", "q8_0", "--json"));
    expect(result).toMatchObject({ format: "gguf", architecture: "llama", type: "Q8_0", holds_exact_zeros: true });
    expect(result.bytes).toBe(readFileSync(file).length);
    expect(result.matrices.zeros_lost).toBe(0);
    expect(result.matrices.zeros_before / result.matrices.weights).toBeGreaterThan(0.2);
    const down = result.tensors.find((tensor: { name: string }) =>
      tensor.name.endsWith("layers.0.mlp.down_proj.weight"),
    );
    expect(down).toMatchObject({ type: "F16", gguf_name: "blk.0.ffn_down.weight" });
    expect(down.fallback).toContain("rows of 100 weights");

    const back = JSON.parse(await run("import", file, join(scratch, "back"), "--json", "--dtype", "f32"));
    expect(back).toMatchObject({ model_type: "llama", dtype: "F32", warnings: [] });
    expect(back.tensors.every((tensor: { rounded: number }) => tensor.rounded === 0)).toBe(true);
  });

  it("says in words what fell back and what became of the zeros", async () => {
    const text = await run("export", donor, join(scratch, "b.gguf"), "--type", "q4_k");
    expect(text).toContain("every type in it holds exact zeros");
    expect(text).toContain("as F16: model.layers.0.mlp.down_proj.weight: rows of 100 weights");
  });

  it("compressed-tensors: there and back", async () => {
    const folder = join(scratch, "sparse");
    const result = JSON.parse(await run("export", donor, folder, "--format", "compressed-tensors", "--json"));
    expect(result.tensors.filter((tensor: { compressed: boolean }) => tensor.compressed)).toHaveLength(14);
    expect(await run("import", folder, join(scratch, "dense"))).toContain("14 projections decompressed");
  });

  it("flags that do not belong together are usage errors", async () => {
    const wrong = [
      ["export", donor, join(scratch, "x"), "--format", "compressed-tensors", "--type", "q8_0"],
      ["import", donor, join(scratch, "x"), "--dtype", "f32"],
    ];
    for (const args of wrong) await expect(run(...args)).rejects.toMatchObject({ code: "USAGE_ARGUMENT" });
    await expect(run("export", donor, join(scratch, "x"), "--type", "q3_k")).rejects.toMatchObject({
      code: "commander.invalidArgument",
    });
  });
});
