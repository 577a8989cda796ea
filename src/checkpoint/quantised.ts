import { PhysariumError } from "../errors.js";
import { isFloatDtype } from "../safetensors/dtypes.js";
import type { TensorInfo } from "../safetensors/header.js";
import { isProjectionName } from "./projections.js";

/** Companions that quantised projections bring along (GPTQ, AWQ, MLX, FP8, compressed-tensors, MXFP4, bitsandbytes). */
const COMPANION =
  /^(?<base>.+?)(?:\.(?:qweight|qzeros|g_idx|scales|weight_packed|weight_scale|weight_scale_inv|weight_scale_2|weight_zero_point|input_scale|absmax|quant_map|SCB)|\.weight\.(?:absmax|quant_map|quant_state\..+)|_blocks|_scales)$/s;

/** Refuse donors whose projections are packed or scaled integers or 8-bit floats: the stored numbers are no weights. Throws `DONOR_QUANTISED`. */
export function refuseQuantised(tensors: Iterable<{ readonly info: TensorInfo; readonly shard: string }>): void {
  for (const { info, shard } of tensors) {
    const base = COMPANION.exec(info.name)?.groups?.base;
    const isCompanion = base !== undefined && isProjectionName(base);
    const isPacked = isProjectionName(info.name) && !isFloatDtype(info.dtype) && info.dtype !== "F64";
    if (!isCompanion && !isPacked) continue;
    throw new PhysariumError(
      "DONOR_QUANTISED",
      `${shard}: tensor "${info.name}" (${info.dtype} [${info.shape.join(", ")}]) belongs to a quantised projection; surgery needs BF16, F16 or F32 weights, use the unquantised model`,
      { shard, tensor: info.name, dtype: info.dtype },
    );
  }
}
