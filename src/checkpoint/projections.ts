import { type FloatDtype, isFloatDtype } from "../safetensors/dtypes.js";
import type { TensorInfo } from "../safetensors/header.js";
import { type DecoderStructure, placeInLayer, UNKNOWN_STRUCTURE } from "./decoder-structure.js";
import { type MatrixKind, matrixKind } from "./matrix-kind.js";

/** A tensor that surgery operates on: one matrix, or a stack of them (fused experts are `[experts, rows, cols]`). */
export interface TargetShape {
  readonly dtype: FloatDtype;
  readonly matrixCount: number;
  /** Rows and columns as they lie in the file. */
  readonly rows: number;
  readonly cols: number;
  /**
   * The file's rows are the inputs of the product, its columns the outputs (GPT-2's Conv1D, some expert stacks); else
   * the other way round.
   */
  readonly storedByInput?: true;
}

export interface Classification {
  readonly role: "target" | "carried";
  /** Why, in words: `plan` prints it. */
  readonly reason: string;
  /** Decoder layer, or -1 where the name has none. */
  readonly layer: number;
  /** `self_attn.q_proj`, `mlp.experts.down_proj`, …: the path inside the layer without expert numbers and `.weight`. */
  readonly projection: string;
  /** What a matrix of a decoder layer is for; undefined for everything else. */
  readonly kind: MatrixKind | undefined;
  /** Counts among the matrices of the decoder's layers, operated on or not: coverage is stated over these. */
  readonly inDecoder: boolean;
  readonly target?: TargetShape;
}

/** Which tensors the user wants: `include` replaces the choice by structure, `exclude` takes away from it. */
export interface TargetChoice {
  readonly include?: RegExp;
  readonly exclude?: RegExp;
  /** The flow looks at what comes into a matrix: those that stand beside the steps of a layer stay, unless included. */
  readonly needsInputs?: boolean;
}

/** Detours of low rank and what a layer is told of each token (Gemma 3n and 4): no step of a layer passes them. */
const DETOUR = /(?:^|\.)(?:laurel\.linear_(?:left|right)|per_layer_(?:input_gate|projection))$/;
const KEYS = /(?:^|\.)self_attn\.[kv]_proj$/;
const UNUSED = "of a layer that takes an earlier one's keys and values: no forward pass uses it";
const NO_INPUTS = "stands beside the steps of a layer: this flow does not see its inputs";

/** Reasons to stay that only a pattern gives. */
export const NOT_INCLUDED = "not matched by --include";
export const EXCLUDED = "matched by --exclude";

/**
 * Decide by structure, without model classes, whether surgery operates on a tensor: a matrix (or a stack of them) in a
 * layer of the decoder that is no embedding, norm, router, convolution, adapter or bare parameter.
 */
export function classifyTensor(
  tensor: TensorInfo,
  choice: TargetChoice = {},
  structure: DecoderStructure = UNKNOWN_STRUCTURE,
): Classification {
  const part = partOf(tensor, structure);
  const { layer, projection, kind, inDecoder } = part;
  const carried = (reason: string): Classification => ({ role: "carried", reason, layer, projection, kind, inDecoder });

  if (choice.include !== undefined) {
    if (!matches(choice.include, tensor.name)) return carried(NOT_INCLUDED);
  } else if (kind === undefined) return carried(part.reason);
  else if (choice.needsInputs && DETOUR.test(projection)) return carried(NO_INPUTS);
  else if (choice.needsInputs && KEYS.test(projection) && structure.takesOthersKeys(layer)) return carried(UNUSED);
  if (choice.exclude !== undefined && matches(choice.exclude, tensor.name)) return carried(EXCLUDED);
  if (!isFloatDtype(tensor.dtype)) return carried(`dtype ${tensor.dtype} is not BF16, F16 or F32`);

  const { shape } = tensor;
  if (shape.length !== 2 && shape.length !== 3)
    return carried(`${shape.length} dimensions; a matrix has 2, a stack of experts 3`);
  if (shape.includes(0)) return carried("empty");
  const [matrixCount, rows, cols] = shape.length === 3 ? shape : [1, shape[0], shape[1]];
  const target = { dtype: tensor.dtype, matrixCount, rows, cols };
  return {
    role: "target",
    reason: choice.include !== undefined ? "matched by --include" : part.reason,
    layer,
    projection,
    kind,
    inDecoder,
    target: structure.isStoredByInput(tensor, projection) ? { ...target, storedByInput: true } : target,
  };
}

/** True where the name is that of a matrix in a decoder layer (its shape and dtype may be those of packed codes). */
export function isMatrixName(name: string): boolean {
  const place = placeInLayer(name);
  if (place === undefined || UNKNOWN_STRUCTURE.notOfDecoder(place) !== undefined) return false;
  return notMatrix(moduleIn(place.path), UNKNOWN_STRUCTURE) === undefined;
}

interface Part {
  readonly layer: number;
  readonly projection: string;
  readonly reason: string;
  readonly kind: MatrixKind | undefined;
  readonly inDecoder: boolean;
}

function partOf({ name, shape }: TensorInfo, structure: DecoderStructure): Part {
  const place = placeInLayer(name);
  const module = moduleIn(place?.path ?? name);
  const none = (reason: string, inDecoder = false): Part => ({
    layer: place?.layer ?? -1,
    projection: module,
    reason,
    kind: undefined,
    inDecoder,
  });
  if (place === undefined) return none("not a projection of a decoder layer");
  const outside = structure.notOfDecoder(place);
  if (outside !== undefined) return none(outside);
  const other = notMatrix(module, structure);
  if (other !== undefined) return none(other.reason, other.isMatrix && shape.length >= 2 && !shape.includes(0));
  if (isConvolution(shape)) return none(CONVOLUTION, true);
  if (!/\.weight$/.test(name) && !BARE_MATRIX.test(module)) {
    return none("a parameter of a decoder layer, no matrix of a product", shape.length >= 2 && !shape.includes(0));
  }
  const kind = matrixKind(module);
  return {
    layer: place.layer,
    projection: module,
    reason: `${module.slice(module.lastIndexOf(".") + 1)} of a decoder layer (${kind})`,
    kind,
    inDecoder: shape.length >= 2 && !shape.includes(0),
  };
}

/** Matrices that are parameters of their own, without a module that would add `.weight`. */
const BARE_MATRIX = /(?:^|[._])(?:\w*proj|\w*linear|\w*weight|w\d+|v1|fc\d+)$|expert/;
const CONVOLUTION = "a convolution: a few taps a channel";

/**
 * What a module of a layer is, if no matrix that surgery means; `isMatrix` where it still counts among the layer's
 * matrices.
 */
function notMatrix(module: string, structure: DecoderStructure): { reason: string; isMatrix: boolean } | undefined {
  const segments = module.split(".");
  const last = segments[segments.length - 1];
  if (/norm|^ln(?:_|\d|$)|layernorm/i.test(last)) {
    // Heads may have a norm's weights each; a matrix whose name goes on (`layernorm_qkv`) is a product's, too.
    const isMatrix = !/norm(?:_?\w{1,2})?$|^ln(?:_?\w+)?$/i.test(last);
    return { reason: isMatrix ? "named as a norm, and no vector" : "a norm", isMatrix };
  }
  if (/embed|^w[tp]e$|position|rotary|relative_attention_bias/i.test(last))
    return { reason: "an embedding", isMatrix: true };
  if (/bias$/.test(last)) return { reason: "a bias", isMatrix: false };
  if (/(?:^|\.)lora_|(?:^|\.)modules_to_save(?:\.|$)/.test(module))
    return { reason: "a factor of an adapter", isMatrix: true };
  if (isRouter(segments, structure)) return { reason: "a router: it chooses or weighs experts", isMatrix: true };
  if (/conv(?:\d+d?)?$/i.test(last)) return { reason: CONVOLUTION, isMatrix: true };
  if (/_coefs$/.test(last)) return { reason: "coefficients that mix copies of the hidden state", isMatrix: true };
  return undefined;
}

function isRouter(segments: readonly string[], structure: DecoderStructure): boolean {
  if (segments.some((segment) => /(?:^|_)router$|experts?_gate$|^moe_gate$/.test(segment))) return true;
  const gate = segments.indexOf("gate");
  return gate >= 0 && structure.choosesExperts(segments.slice(0, gate).join("."));
}

/** Depthwise kernels, `[channels, 1, taps]`, whatever they are called. */
function isConvolution(shape: readonly number[]): boolean {
  return shape.length === 3 && shape[1] === 1 && shape[2] <= 16;
}

/** A name without expert numbers, `.weight` and the wrapper of an adapter library. */
function moduleIn(path: string): string {
  return path
    .replace(/\.weight$/, "")
    .replace(/\.base_layer$/, "")
    .replace(/\.\d+(?=\.|$)/g, "");
}

/** A regular expression with a `g` or `y` flag remembers where it stopped; names must not depend on their order. */
function matches(pattern: RegExp, name: string): boolean {
  pattern.lastIndex = 0;
  return pattern.test(name);
}
