import { ProtobufWriter } from "./protobuf.js";

/** Element types of ONNX tensors, numbered as `TensorProto.DataType`. source: onnx/onnx.proto3 */
export const ONNX_TYPE = { FLOAT: 1, INT32: 6, INT64: 7, BOOL: 9, FLOAT16: 10, BFLOAT16: 16 } as const;
export type OnnxType = keyof typeof ONNX_TYPE;

/** A dimension: a number, or a name for one that is known at run time only. */
export type Dimension = number | string;
export type Attribute =
  | number
  | bigint
  | string
  | readonly bigint[]
  | { readonly float: number }
  /** The body of a loop. */
  | { readonly graph: OnnxGraph };

/** The name of a value in the graph: what an operator gives and the next one takes. */
export type Value = string;

/** An operator as it was added: what `gradient.ts` walks backwards. An input of "" is one that was left out. */
export interface GraphNode {
  readonly type: string;
  readonly inputs: readonly Value[];
  readonly outputs: readonly Value[];
  readonly attributes: Readonly<Record<string, Attribute>>;
}

/**
 * An ONNX model under construction: operators in order, named values between them.
 *
 * Numbers as attributes are integers; a float is written `{ float: 1e-5 }`, for ONNX tells the two apart. Opset 23
 * (RMSNormalization, RotaryEmbedding) and `com.microsoft` 1 (GroupQueryAttention, FusedMatMul) are imported.
 * source: onnx/onnx.proto3 (ModelProto, GraphProto, NodeProto, TensorProto)
 */
export class OnnxGraph {
  private readonly nodes = new ProtobufWriter();
  private readonly initializers = new ProtobufWriter();
  private readonly inputs = new ProtobufWriter();
  private readonly outputs = new ProtobufWriter();
  private readonly names = new Map<string, number>();
  private readonly constants = new Map<string, Value>();
  readonly inputNames: string[] = [];
  readonly outputNames: string[] = [];
  /** All operators, each behind those it takes values of. */
  readonly tape: GraphNode[] = [];
  /** What small tensors kept in the model hold. */
  readonly constantData = new Map<Value, Float32Array | BigInt64Array>();
  /** Shapes of inputs, constants and stored weights. */
  readonly dims = new Map<Value, readonly Dimension[]>();
  /** Whether weights may stay in their files: the engine takes none from files where it is given any as bytes. */
  mapsFiles = true;
  /** Weights that no file holds as they are: read when a session is opened, under the name that the graph calls them. */
  readonly readIn: { readonly path: string; readonly read: () => Promise<Uint8Array> }[] = [];

  /**
   * `scope` begins the names of all values made here: those of a loop's body must differ from the graph's around it.
   * `supplied` names stored tensors that come with each run, as inputs of their name (see `storedValue`).
   */
  constructor(
    private readonly scope = "",
    readonly supplied: ReadonlySet<string> = new Set(),
  ) {}

  /** An input of the model; asking for the same name again gives the same one. */
  input(name: string, type: OnnxType, dims: readonly Dimension[]): Value {
    if (this.inputNames.includes(name)) return name;
    writeValueInfo(this.inputs, 11, name, type, dims);
    this.inputNames.push(name);
    this.dims.set(name, dims);
    return name;
  }

  /** Make `value` an output of the model under `name`. */
  output(name: string, value: Value, type: OnnxType, dims: readonly Dimension[]): void {
    if (value !== name) this.node("Identity", [value], [name], {});
    writeValueInfo(this.outputs, 12, name, type, dims);
    this.outputNames.push(name);
  }

  /** Weights that stay in a file: `byteOffset` counts from the file's start, so a safetensors file serves as it is. */
  external(type: OnnxType, dims: readonly number[], path: string, byteOffset: number, byteLength: number): Value {
    const name = this.fresh("weights");
    this.dims.set(name, dims);
    this.initializers.message(5, (tensor) => {
      for (const dim of dims) tensor.integer(1, dim);
      tensor.integer(2, ONNX_TYPE[type]).string(8, name);
      for (const [key, value] of [
        ["location", path],
        ["offset", `${byteOffset}`],
        ["length", `${byteLength}`],
      ]) {
        tensor.message(13, (entry) => entry.string(1, key).string(2, value));
      }
      tensor.integer(14, 1);
    });
    return name;
  }

  /** Weights that are read into the engine's memory when a session is opened: bytes of a decoded file, say. */
  fromBytes(type: OnnxType, dims: readonly number[], byteLength: number, read: () => Promise<Uint8Array>): Value {
    const path = `read-in-${this.readIn.length}`;
    this.readIn.push({ path, read });
    return this.external(type, dims, path, 0, byteLength);
  }

  /** A small tensor kept in the model itself; equal ones are stored once. `dims` defaults to one dimension. */
  constant(data: Float32Array | BigInt64Array, dims: readonly number[] = [data.length]): Value {
    const type = data instanceof Float32Array ? "FLOAT" : "INT64";
    const key = `${type}[${dims}]${data.join()}`;
    const known = this.constants.get(key);
    if (known !== undefined) return known;
    const name = this.fresh("constant");
    this.initializers.message(5, (tensor) => {
      for (const dim of dims) tensor.integer(1, dim);
      tensor.integer(2, ONNX_TYPE[type]).string(8, name);
      tensor.bytes(9, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    });
    this.constants.set(key, name);
    this.constantData.set(name, data);
    this.dims.set(name, dims);
    return name;
  }

  scalar(value: number): Value {
    return this.constant(Float32Array.of(value), []);
  }

  integers(...values: number[]): Value {
    return this.constant(BigInt64Array.from(values, BigInt));
  }

  /** Add an operator with one output. */
  op(type: string, inputs: readonly Value[], attributes: Record<string, Attribute> = {}, domain = ""): Value {
    return this.ops(type, inputs, 1, attributes, domain)[0];
  }

  /** Add an operator with several outputs. */
  ops(
    type: string,
    inputs: readonly Value[],
    outputCount: number,
    attributes: Record<string, Attribute> = {},
    domain = "",
  ): Value[] {
    const outputs = Array.from({ length: outputCount }, () => this.fresh(type));
    this.node(type, inputs, outputs, attributes, domain);
    return outputs;
  }

  /** The graph alone, as a model or the body of a loop holds it (GraphProto). */
  serializeGraph(): Uint8Array {
    const graph = new ProtobufWriter();
    const body = [this.nodes, this.initializers, this.inputs, this.outputs].map((part) => part.finish());
    graph.string(2, "physarium");
    const head = graph.finish();
    const bytes = new Uint8Array(body.reduce((sum, part) => sum + part.byteLength, head.byteLength));
    let position = 0;
    for (const part of [head, ...body]) {
      bytes.set(part, position);
      position += part.byteLength;
    }
    return bytes;
  }

  serialize(): Uint8Array {
    return (
      new ProtobufWriter()
        // IR 11 goes with opset 23.
        .integer(1, 11)
        .string(2, "physarium")
        .bytes(7, this.serializeGraph())
        .message(8, (opset) => opset.string(1, "").integer(2, 23))
        .message(8, (opset) => opset.string(1, "com.microsoft").integer(2, 1))
        .finish()
    );
  }

  private node(
    type: string,
    inputs: readonly Value[],
    outputs: readonly Value[],
    attributes: Record<string, Attribute>,
    domain = "",
  ): void {
    this.tape.push({ type, inputs, outputs, attributes });
    this.nodes.message(1, (node) => {
      for (const input of inputs) node.string(1, input);
      for (const output of outputs) node.string(2, output);
      node.string(3, outputs[0]).string(4, type);
      for (const [name, value] of Object.entries(attributes)) {
        node.message(5, (attribute) => writeAttribute(attribute.string(1, name), value));
      }
      if (domain !== "") node.string(7, domain);
    });
  }

  private fresh(stem: string): Value {
    const count = (this.names.get(stem) ?? 0) + 1;
    this.names.set(stem, count);
    return `${this.scope}${stem}_${count}`;
  }
}

function writeAttribute(attribute: ProtobufWriter, value: Attribute): void {
  if (typeof value === "number" || typeof value === "bigint") attribute.integer(3, value).integer(20, 2);
  else if (typeof value === "string") attribute.string(4, value).integer(20, 3);
  else if (Array.isArray(value)) {
    for (const integer of value as readonly bigint[]) attribute.integer(8, integer);
    attribute.integer(20, 7);
  } else if (typeof value === "object" && "graph" in value)
    attribute.bytes(6, value.graph.serializeGraph()).integer(20, 5);
  else attribute.float(2, (value as { float: number }).float).integer(20, 1);
}

function writeValueInfo(
  writer: ProtobufWriter,
  field: number,
  name: string,
  type: OnnxType,
  dims: readonly Dimension[],
): void {
  writer.message(field, (info) =>
    info.string(1, name).message(2, (valueType) =>
      valueType.message(1, (tensor) =>
        tensor.integer(1, ONNX_TYPE[type]).message(2, (shape) => {
          for (const dim of dims) {
            shape.message(1, (entry) => {
              if (typeof dim === "number") entry.integer(1, dim);
              else entry.string(2, dim);
            });
          }
        }),
      ),
    ),
  );
}
