import type { Donor } from "../dist/checkpoint/donor.js";
import { PhysariumError } from "../dist/errors.js";
import { type FloatDtype, isFloatDtype } from "../dist/safetensors/dtypes.js";
import { decodeFloats } from "../dist/safetensors/float-bits.js";

export interface ReadTensor {
  readonly dtype: FloatDtype;
  /** f32, row-major. */
  readonly values: Float32Array;
}

/** Read one tensor of a donor as f32. Throws `DONOR_NON_FINITE`: the flow has no answer to an infinite weight. */
export async function readTensor(donor: Donor, name: string): Promise<ReadTensor> {
  for (const shard of donor.shards) {
    const info = shard.tensors.find((tensor) => tensor.name === name);
    if (info === undefined) continue;
    if (!isFloatDtype(info.dtype)) break;
    const source = await donor.source.open(shard.file);
    try {
      const values = decodeFloats(await source.read(info.byteOffset, info.byteOffset + info.byteLength), info.dtype);
      const bad = values.findIndex((value) => !Number.isFinite(value));
      if (bad >= 0) {
        throw new PhysariumError(
          "DONOR_NON_FINITE",
          `${shard.file}: tensor "${name}" holds ${values[bad]} at element ${bad}; the activation flow needs ` +
            "finite weights",
          { tensor: name, element: bad },
        );
      }
      return { dtype: info.dtype, values };
    } finally {
      await source.close();
    }
  }
  throw new PhysariumError("DONOR_TENSOR_MISSING", `tensor "${name}" is missing, or is not BF16, F16 or F32`, {
    tensor: name,
  });
}
