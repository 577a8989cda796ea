import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { inspectModel } from "../../dist/probe/forward/inspect-model.js";
import { physarium } from "../physarium.js";
import { hasEngine, LOAM } from "../probe/engine-present.js";
import { temporaryFolder } from "../temporary.js";

const folder = temporaryFolder();
let models = 0;

type Json = Record<string, unknown>;

/** loam with one of its JSON files replaced by what `bend` makes of it. */
function bent(file: string, bend: (json: Json) => unknown): string {
  const path = join(folder, `model-${models++}`);
  cpSync(LOAM, path, { recursive: true });
  const json = file === "generation_config.json" ? {} : JSON.parse(readFileSync(join(path, file), "utf8"));
  writeFileSync(join(path, file), JSON.stringify(bend(json)));
  return path;
}

const COUNTS: [Json, RegExp][] = [
  [{ num_hidden_layers: 1e9 }, /num_hidden_layers is 1000000000, and there are 50 tensors/],
  [{ hidden_size: 1e15 }, /hidden_size is 1000000000000000, and the longest axis of any tensor has 2048/],
  [{ vocab_size: 1e12 }, /vocab_size is 1000000000000/],
  [{ intermediate_size: 1e12 }, /intermediate_size/],
  [{ num_attention_heads: 1e9, num_key_value_heads: 1e9 }, /num_attention_heads/],
  [{ head_dim: 1e9 }, /head_dim/],
  [{ num_local_experts: 1e12 }, /num_local_experts/],
  [{ partial_rotary_factor: 1e9 }, /partial_rotary_factor is 1000000000, and a part of a head is 0 to 1/],
  [{ rope_parameters: { rope_theta: 1e4, partial_rotary_factor: -1 } }, /partial_rotary_factor is -1/],
  [{ rope_parameters: { full_attention: { partial_rotary_factor: 1e9 } } }, /partial_rotary_factor/],
  [{ text_config: { num_hidden_layers: 1e9 } }, /num_hidden_layers/],
];

test.each(COUNTS)("a configuration that speaks of more than there is: %j", async (fields, message) => {
  const model = bent("config.json", (config) => ({ ...config, ...fields }));
  await expect(inspectModel(model)).rejects.toMatchObject({
    code: "DONOR_CONFIG",
    message: expect.stringMatching(message),
  });
});

const text = join(folder, "text.txt");
writeFileSync(text, "Once upon a time there was a little fox. ".repeat(20));

test("no command makes room for a billion layers", async () => {
  const model = bent("config.json", (config) => ({ ...config, num_hidden_layers: 1e9 }));
  for (const args of [
    ["eval", model, "--text", text],
    ["export", model, join(folder, "x.gguf")],
    ["synth", model, join(folder, "synthetic")],
    ["plan", model, "--flow", "activation", "--pattern", "2:4"],
  ]) {
    const { status, stderr } = await physarium(args);
    expect(status, stderr).toBe(3);
    expect(stderr).toMatch(/^physarium: .*num_hidden_layers.* \[DONOR_CONFIG\]\n$/);
  }
});

test("synth: two lengths whose product is no number of bytes", async () => {
  const model = bent("config.json", (config) => ({ ...config, num_attention_heads: 2 ** 31, head_dim: 2 ** 31 }));
  const { status, stderr } = await physarium(["synth", model, join(folder, "huge")]);
  expect([2, 3], stderr).toContain(status);
  expect(stderr.trimEnd().split("\n")).toHaveLength(1);
});

test.skipIf(!hasEngine)(
  "files that are no objects, and tokens that are no whole numbers, are the donor's fault",
  async () => {
    const prompt = ["--prompt", "Once upon", "--max-tokens", "2"];
    const none = await physarium(["generate", bent("generation_config.json", () => null), ...prompt]);
    expect(none.stderr).toMatch(/generation_config\.json: expected an object.* \[DONOR_CONFIG\]\n$/);
    expect(none.status).toBe(3);
    const halves = bent("tokenizer.json", (json) => {
      const { vocab } = json.model as { vocab: Record<string, number> };
      for (const token of Object.keys(vocab)) vocab[token] += 0.5;
      return json;
    });
    const half = await physarium(["eval", halves, "--text", text, "--window", "16", "--limit", "1"]);
    expect(half.stderr).toMatch(/\[DONOR_\w+\]\n$/);
    expect(half.status).toBe(3);
  },
);
