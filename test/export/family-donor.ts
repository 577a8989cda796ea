import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ggufModelOf } from "../../dist/export/gguf/model.js";
import { encodeFloats } from "../../dist/safetensors/float-bits.js";
import { serializeHeader } from "../../dist/safetensors/writer.js";
import { byteTokenizer, generator } from "./random-donor.js";

/** A folder of F32 random weights with every tensor that an export of the family has a place for. */
export function writeFamilyDonor(folder: string, config: Readonly<Record<string, unknown>>, seed = 1): string {
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "config.json"), JSON.stringify(config));
  writeFileSync(join(folder, "tokenizer.json"), JSON.stringify(byteTokenizer()));
  writeFileSync(join(folder, "tokenizer_config.json"), JSON.stringify({ eos_token: "<|end|>", bos_token: null }));
  const { links, layerNumbers } = ggufModelOf(JSON.stringify(config), "config.json");
  const shapes = new Map(links.filter(({ optional }) => !optional).map(({ name, shape }) => [name, shape]));
  for (const { names, shape } of layerNumbers) for (const name of names) shapes.set(name, shape);
  const random = generator(seed);
  const tensors = [...shapes].map(([name, shape]) => ({ name, shape, dtype: "F32" as const }));
  const parts = tensors.map(({ name, shape }) => {
    const spread = shape.length < 2 ? 0.2 : 1.5 / Math.sqrt(shape[shape.length - 1]);
    const middle = /norm[^/]*\.weight$|layer_scalar$/.test(name) && shape.length < 2 ? 1 : 0;
    // Gemma 4 does not scale its scores: normed heads of random models would decide everything by a rounding.
    const size = config.model_type === "gemma4_text" && /[qk]_norm\.weight$/.test(name) ? 0.3 : 1;
    const weights = new Float32Array(shape.reduce((product, each) => product * each, 1));
    const normal = () => Math.sqrt(3) * (random() + random() + random() + random() - 2);
    return encodeFloats(
      name.endsWith("act_fn.eps") ? Float32Array.of(-1e-6) : weights.map(() => size * (middle + spread * normal())),
      "F32",
    );
  });
  writeFileSync(join(folder, "model.safetensors"), Buffer.concat([serializeHeader(tensors).bytes, ...parts]));
  return folder;
}
