import { ModelFolder } from "../../dist/export/model-folder.js";
import type { FloatDtype } from "../../dist/safetensors/dtypes.js";
import { decodeFloats } from "../../dist/safetensors/float-bits.js";

/** All weights of a model folder, decoded, by their names. */
export async function weightsOf(path: string): Promise<Map<string, Float32Array>> {
  const folder = await ModelFolder.open(path);
  const weights = new Map<string, Float32Array>();
  for (const [name, located] of folder.tensors) {
    const bytes = await folder.read(located, 0, located.info.byteLength);
    weights.set(name, decodeFloats(bytes, located.info.dtype as FloatDtype));
  }
  await folder.close();
  return weights;
}
