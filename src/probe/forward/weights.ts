import { join } from "node:path";
import { unwrapped } from "../../checkpoint/adapter-names.js";
import type { Donor } from "../../checkpoint/donor.js";
import type { ModelSource } from "../../checkpoint/model-source.js";
import { refuseQuantised } from "../../checkpoint/quantised.js";
import type { OnnxGraph, OnnxType, Value } from "../../engine/onnx-graph.js";
import { externalLocation } from "../../engine/session.js";
import { PhysariumError } from "../../errors.js";
import type { Architecture } from "../../model/architecture.js";
import { layerBase, type TensorNames } from "../../model/names.js";
import { bytesPerFloat, type FloatDtype, isFloatDtype } from "../../safetensors/dtypes.js";
import type { TensorInfo } from "../../safetensors/header.js";

/** A tensor and where it lies. */
export interface StoredTensor {
  readonly info: TensorInfo;
  readonly dtype: FloatDtype;
  readonly shard: string;
  /** Its file as the engine wants it; absent where no file holds the bytes as they are. */
  readonly location: string | undefined;
  /** Bytes `[begin, end)` of the tensor, from wherever they come. */
  read(begin: number, end: number): Promise<Uint8Array>;
}

const ONNX_DTYPE: Readonly<Record<FloatDtype, OnnxType>> = { BF16: "BFLOAT16", F16: "FLOAT16", F32: "FLOAT" };
const TO_FLOAT = { to: 1 };

/**
 * The tensors of a model by the parts of a decoder: which name plays which role, checked for dtype and shape as they
 * are asked for.
 */
export class Weights {
  private readonly tensors = new Map<string, StoredTensor>();
  /** What stands before the embedding and the layers: `model.` in most, `language_model.model.` in some. */
  readonly prefix: string;
  /** The engine maps the files; else a session holds the weights it needs. */
  readonly isMapped: boolean;

  constructor(
    donor: Donor,
    readonly names: TensorNames,
  ) {
    const { source } = donor;
    const { localPath } = source;
    this.isMapped = localPath !== undefined;
    const foreign = new Map<string, { info: TensorInfo; shard: string }>();
    for (const shard of donor.shards) {
      const location = localPath === undefined ? undefined : externalLocation(join(localPath, shard.file));
      for (const info of shard.tensors) {
        if (isFloatDtype(info.dtype)) {
          const read = (begin: number, end: number) => readPart(source, shard.file, info, begin, end);
          // Everything here goes by the names that the architecture has: in graphs, feeds and refusals.
          const name = unwrapped(info.name);
          const named = { ...info, name };
          this.tensors.set(name, { info: named, dtype: info.dtype, shard: shard.file, location, read });
        } else foreign.set(info.name, { info, shard: shard.file });
      }
    }
    refuseQuantised([...foreign.values(), ...this.tensors.values()]);
    const last = `${names.embedding}.weight`;
    const embedding = [...this.tensors.keys(), ...foreign.keys()]
      .filter((name) => name === last || name.endsWith(`.${last}`))
      .sort((a, b) => a.length - b.length)[0];
    if (embedding === undefined) {
      throw new PhysariumError(
        "DONOR_ARCHITECTURE",
        `${donor.path}: no tensor named ${last}; this is no decoder of a known architecture`,
        { path: donor.path },
      );
    }
    this.prefix = embedding.slice(0, -last.length);
  }

  has(name: string): boolean {
    return this.tensors.has(name);
  }

  /** A tensor of exactly this shape. Throws `DONOR_TENSOR_MISSING` or `DONOR_SHAPE`. */
  get(name: string, shape: readonly number[]): StoredTensor {
    const tensor = this.tensors.get(name);
    if (tensor === undefined) {
      throw new PhysariumError(
        "DONOR_TENSOR_MISSING",
        `tensor "${name}" is missing, or is not BF16, F16 or F32; the forward pass of this architecture needs it`,
        { tensor: name },
      );
    }
    const found = tensor.info.shape;
    if (found.length !== shape.length || found.some((dimension, axis) => dimension !== shape[axis])) {
      throw new PhysariumError(
        "DONOR_SHAPE",
        `${tensor.shard}: tensor "${name}" has shape [${found.join(", ")}], config.json makes it [${shape.join(", ")}]`,
        { tensor: name, found, expected: shape },
      );
    }
    return tensor;
  }

  /** A tensor of so many elements, whatever its shape: a single number may have one dimension or none. */
  anyOf(name: string, elements: number): StoredTensor {
    const shape = this.tensors.get(name)?.info.shape ?? [];
    return this.get(name, shape.reduce((product, size) => product * size, 1) === elements ? shape : [elements]);
  }

  /** All dtypes of the model's float tensors, the most frequent (by elements) first. */
  get dtypes(): FloatDtype[] {
    const bytes = new Map<FloatDtype, number>();
    for (const { dtype, info } of this.tensors.values()) {
      bytes.set(dtype, (bytes.get(dtype) ?? 0) + info.byteLength / bytesPerFloat(dtype));
    }
    return [...bytes].sort((a, b) => b[1] - a[1]).map(([dtype]) => dtype);
  }

  /** Bytes of all float tensors, as they are stored. */
  get byteLength(): number {
    let sum = 0;
    for (const { info } of this.tensors.values()) sum += info.byteLength;
    return sum;
  }

  /** Elements of all float tensors. */
  get elementCount(): number {
    let sum = 0;
    for (const { dtype, info } of this.tensors.values()) sum += info.byteLength / bytesPerFloat(dtype);
    return sum;
  }

  layerNames(layer: number): string[] {
    const base = layerBase(this.names, this.prefix, layer);
    return [...this.tensors.keys()].filter((name) => name.startsWith(base));
  }

  /** The float tensors of a layer, by what they take. */
  layerTensors(layer: number): { readonly dtype: FloatDtype; readonly elements: number }[] {
    return this.layerNames(layer).map((name) => {
      const { dtype, info } = this.tensors.get(name)!;
      return { dtype, elements: info.byteLength / bytesPerFloat(dtype) };
    });
  }

  get embedding(): string {
    return `${this.prefix}${this.names.embedding}.weight`;
  }

  /** A norm or table behind the decoder's prefix, without `.weight`. */
  named(name: string): string {
    return `${this.prefix}${name}`;
  }

  /**
   * The output matrix: its own where the file has one, whatever config.json says about ties; else the embedding where
   * the two may be tied. It stands behind the decoder's prefix or behind a part of it.
   */
  head(architecture: Architecture): string {
    const own = this.ownHead;
    if (own !== undefined) return own;
    return architecture.tiedEmbeddings ? this.embedding : `${this.names.head}.weight`;
  }

  /** The output matrix that the file itself holds. */
  get ownHead(): string | undefined {
    const parts = this.prefix.split(".").slice(0, -1);
    for (let length = parts.length; length >= 0; length--) {
      const name = [...parts.slice(0, length), this.names.head, "weight"].join(".");
      if (this.has(name)) return name;
    }
    return undefined;
  }
}

async function readPart(
  source: ModelSource,
  shard: string,
  { byteOffset }: TensorInfo,
  begin: number,
  end: number,
): Promise<Uint8Array> {
  const file = await source.open(shard);
  try {
    return await file.read(byteOffset + begin, byteOffset + end);
  } finally {
    await file.close();
  }
}

/**
 * Put a stored tensor, or rows `[rowStart, rowEnd)` of it, into a graph as f32; it stays in its file where the engine
 * can map that. Where the graph is supplied with it, it is an input instead, f32 in the file's own shape.
 */
export function storedValue(
  graph: OnnxGraph,
  tensor: StoredTensor,
  rowStart = 0,
  rowEnd = tensor.info.shape[0] ?? 1,
  cast = true,
): Value {
  const { name, shape } = tensor.info;
  if (graph.supplied.has(name)) {
    const whole = graph.input(name, "FLOAT", shape);
    if (rowStart === 0 && rowEnd === (shape[0] ?? 1)) return whole;
    return graph.op("Slice", [whole, graph.integers(rowStart), graph.integers(rowEnd), graph.integers(0)]);
  }
  const [rows = 1, ...rest] = shape;
  const rowBytes = tensor.info.byteLength / rows;
  const type = ONNX_DTYPE[tensor.dtype];
  const dims = [rowEnd - rowStart, ...rest];
  const [begin, end] = [rowStart * rowBytes, rowEnd * rowBytes];
  const value =
    tensor.location === undefined || !graph.mapsFiles
      ? graph.fromBytes(type, dims, end - begin, () => tensor.read(begin, end))
      : graph.external(type, dims, tensor.location, tensor.info.byteOffset + begin, end - begin);
  return cast && tensor.dtype !== "F32" ? graph.op("Cast", [value], TO_FLOAT) : value;
}
