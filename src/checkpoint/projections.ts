import { type FloatDtype, isFloatDtype } from "../safetensors/dtypes.js";
import type { TensorInfo } from "../safetensors/header.js";

/** A tensor that surgery operates on: one matrix, or a stack of them (fused experts are `[experts, rows, cols]`). */
export interface TargetShape {
  readonly dtype: FloatDtype;
  readonly matrixCount: number;
  readonly rows: number;
  readonly cols: number;
}

export interface Classification {
  readonly role: "target" | "carried";
  /** Why, in words: `plan` prints it. */
  readonly reason: string;
  /** Decoder layer, or -1 where the name has none. */
  readonly layer: number;
  /** `self_attn.q_proj`, `mlp.experts.down_proj`, …: the path inside the layer without expert numbers and `.weight`. */
  readonly projection: string;
  readonly target?: TargetShape;
}

/** Which tensors the user wants: `include` replaces the choice by name, `exclude` takes away from it. */
export interface TargetChoice {
  readonly include?: RegExp;
  readonly exclude?: RegExp;
}

/**
 * `<prefix>layers.<N>.<path><projection>[.weight]`, the naming every decoder on the hub with these projections shares.
 * Two patterns, each linear in the name's length: one for all of it would backtrack, and names are foreign data.
 */
const LAYER = /(?:^|\.)layers\.(\d{1,9})\./;
const KIND = /(?:^|\.)(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj|qkv_proj|gate_up_proj)(?:\.weight)?$/;

/** Towers that read pictures or sound: their projections feed the decoder but are no part of it. */
const TOWER = /vision|visual|image|audio|speech|(?:^|\.)vit(?:\.|$)/i;

/** Decide by name and shape alone, without model classes, whether surgery operates on a tensor. */
export function classifyTensor(tensor: TensorInfo, choice: TargetChoice = {}): Classification {
  const { layer, projection } = locate(tensor.name);
  const carried = (reason: string): Classification => ({ role: "carried", reason, layer, projection });
  const match = matchProjection(tensor.name);

  if (choice.include !== undefined) {
    if (!matches(choice.include, tensor.name)) return carried("not matched by --include");
  } else {
    if (match === undefined) return carried("not a projection of a decoder layer");
    if (TOWER.test(match.prefix)) return carried("a projection of a vision or audio tower");
  }
  if (choice.exclude !== undefined && matches(choice.exclude, tensor.name)) return carried("matched by --exclude");
  if (!isFloatDtype(tensor.dtype)) return carried(`dtype ${tensor.dtype} is not BF16, F16 or F32`);

  const { shape } = tensor;
  if (shape.length !== 2 && shape.length !== 3)
    return carried(`${shape.length} dimensions; a matrix has 2, a stack of experts 3`);
  if (shape.includes(0)) return carried("empty");
  const [matrixCount, rows, cols] = shape.length === 3 ? shape : [1, shape[0], shape[1]];
  return {
    role: "target",
    reason: choice.include !== undefined ? "matched by --include" : `${match?.kind} of a decoder layer`,
    layer,
    projection,
    target: { dtype: tensor.dtype, matrixCount, rows, cols },
  };
}

/** True where the name is that of a decoder projection, whatever its dtype; quantised ones are found by it. */
export function isProjectionName(name: string): boolean {
  const match = matchProjection(name);
  return match !== undefined && !TOWER.test(match.prefix);
}

function matchProjection(name: string): { prefix: string; kind: string } | undefined {
  const kind = KIND.exec(name)?.[1];
  const layer = kind === undefined ? null : LAYER.exec(name);
  return kind === undefined || layer === null ? undefined : { prefix: name.slice(0, layer.index), kind };
}

function locate(name: string): { layer: number; projection: string } {
  const match = LAYER.exec(name);
  const path = match === null ? name : name.slice(match.index + match[0].length);
  return {
    layer: match === null ? -1 : Number(match[1]),
    projection: path.replace(/\.weight$/, "").replace(/\.\d+(?=\.|$)/g, ""),
  };
}

/** A regular expression with a `g` or `y` flag remembers where it stopped; names must not depend on their order. */
function matches(pattern: RegExp, name: string): boolean {
  pattern.lastIndex = 0;
  return pattern.test(name);
}
