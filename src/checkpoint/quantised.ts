import { PhysariumError } from "../errors.js";
import { isFloatDtype } from "../safetensors/dtypes.js";
import type { TensorInfo } from "../safetensors/header.js";
import { isMatrixName } from "./projections.js";

interface Located {
  readonly info: TensorInfo;
  readonly shard: string;
}

/** Codes under names that nothing but a quantiser gives, whatever module they belong to. */
const CODES: readonly (readonly [scheme: string, name: RegExp])[] = [
  ["GPTQ or AWQ", /\.(?:qweight|qzeros)$/],
  ["EXL2", /\.q_(?:weight|scale|scale_max|invperm|perm|groups)$/],
  ["EXL3", /\.(?:trellis|suh|svh)$/],
  ["HQQ", /\.W_q$/],
  ["compressed-tensors", /\.weight_packed$/],
  ["bitsandbytes", /\.SCB$|\.weight\.(?:absmax|quant_map|nested_absmax|nested_quant_map|quant_state\..+)$/],
  ["AQLM", /\.codebooks$/],
  ["QuIP#", /\.Qidxs$/],
  ["VPTQ", /\.centroids(?:\.weight)?$/],
  ["TorchAO", /[.:_](?:qdata|tensor_data|int_data)$/],
  ["Quanto", /\.weight\._(?:data|scale|shift)$/],
];

/**
 * Scales and zero points: they tell of codes where they stand beside a matrix of a decoder layer or beside packed
 * codes.
 */
const COMPANION =
  /^(?<base>.+?)(?:\.(?:g_idx|scales|weight_scale|weight_scale_inv|weight_scale_2|weight_global_scale|weight_zero_point|input_scale|meta|absmax|quant_map)|_blocks|_scales)$/s;

/** Eight bits and fewer a weight, or words that several share; I64 and BOOL are indices and masks. */
const PACKED_DTYPE = /^(?:F4|F6_|F8_|[IU](?:8|16|32)$)/;

/**
 * Refuse donors whose matrices are packed or scaled integers or 8-bit floats, known by what they are rather than by
 * their modules' names: the stored numbers are no weights, whatever `--include` says. Throws `DONOR_QUANTISED`.
 */
export function refuseQuantised(tensors: Iterable<Located>): void {
  const companions: (Located & { base: string })[] = [];
  const packed = new Map<string, Located>();
  for (const located of tensors) {
    const { name, dtype, shape } = located.info;
    const scheme = CODES.find(([, pattern]) => pattern.test(name))?.[0];
    if (scheme !== undefined) throw quantised(located, scheme);
    const base = COMPANION.exec(name)?.groups?.base;
    if (base !== undefined) companions.push({ ...located, base });
    if (PACKED_DTYPE.test(dtype) && (shape.length >= 2 || isMatrixName(name))) packed.set(withoutWeight(name), located);
  }
  for (const companion of companions) {
    if (packed.has(companion.base) || isMatrixName(companion.base)) throw quantised(companion);
  }
  for (const [module, located] of packed) if (isMatrixName(module)) throw quantised(located);
}

/** True for a dtype that holds codes rather than weights. */
export function isPackedDtype(dtype: string): boolean {
  return !isFloatDtype(dtype) && PACKED_DTYPE.test(dtype);
}

function withoutWeight(name: string): string {
  return name.replace(/\.weight$/, "");
}

function quantised({ info, shard }: Located, scheme?: string): PhysariumError {
  return new PhysariumError(
    "DONOR_QUANTISED",
    `${shard}: tensor "${info.name}" (${info.dtype} [${info.shape.join(", ")}]) belongs to a quantised ` +
      `matrix${scheme === undefined ? "" : `, as ${scheme} writes them`}; surgery needs BF16, F16 or F32 weights, ` +
      "use the unquantised model",
    { shard, tensor: info.name, dtype: info.dtype, ...(scheme === undefined ? {} : { scheme }) },
  );
}
