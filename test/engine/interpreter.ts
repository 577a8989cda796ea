/**
 * The operators of our graphs in f64, one plain loop each: what gradients are held against. Nothing of the engine is
 * used but the tape of a graph. Whole numbers (shapes, indices) are kept as f64, too.
 */
import type { GraphNode, OnnxGraph } from "../../dist/engine/onnx-graph.js";

export interface Array64 {
  readonly dims: readonly number[];
  readonly data: Float64Array;
}

export function array(dims: readonly number[], data: ArrayLike<number | bigint>): Array64 {
  return { dims, data: Float64Array.from(data as ArrayLike<number>, Number) };
}

/** Run a graph: its inputs by name → all its values by name. */
export function interpret(graph: OnnxGraph, feeds: Readonly<Record<string, Array64>>): Map<string, Array64> {
  const values = new Map(Object.entries(feeds));
  for (const [name, data] of graph.constantData) values.set(name, array(graph.dims.get(name) as number[], data));
  for (const node of graph.tape) {
    const operator = OPERATORS[node.type];
    if (operator === undefined) throw new Error(`the interpreter has no ${node.type}`);
    const inputs = node.inputs.map((name) => (name === "" ? undefined : values.get(name)));
    node.inputs.forEach((name, at) => {
      if (name !== "" && inputs[at] === undefined) throw new Error(`${node.type} takes ${name}, which nobody fed`);
    });
    const outputs = operator(node, inputs as Array64[]);
    node.outputs.forEach((name, at) => void values.set(name, outputs[at]));
  }
  return values;
}

type Operator = (node: GraphNode, inputs: readonly Array64[]) => Array64[];

const size = (dims: readonly number[]): number => dims.reduce((product, dim) => product * dim, 1);
const whole = (node: GraphNode, name: string, usual: number): number => Number(node.attributes[name] ?? usual);
const real = (node: GraphNode, name: string, usual: number): number =>
  (node.attributes[name] as { float: number } | undefined)?.float ?? usual;
const axisOf = (axis: number, rank: number): number => (axis < 0 ? axis + rank : axis);

function strides(dims: readonly number[]): number[] {
  const steps = dims.map(() => 1);
  for (let axis = dims.length - 2; axis >= 0; axis--) steps[axis] = steps[axis + 1] * dims[axis + 1];
  return steps;
}

/** All places of a shape, in order. */
function* places(dims: readonly number[]): Generator<number[]> {
  const steps = strides(dims);
  for (let at = 0; at < size(dims); at++) yield dims.map((dim, axis) => Math.floor(at / steps[axis]) % dim);
}

function offset(place: readonly number[], dims: readonly number[]): number {
  const steps = strides(dims);
  return place.reduce((sum, index, axis) => sum + index * steps[axis], 0);
}

/** Element of a broadcast operand. */
function spread({ dims, data }: Array64, place: readonly number[]): number {
  const own = place.slice(place.length - dims.length).map((index, axis) => (dims[axis] === 1 ? 0 : index));
  return data[offset(own, dims)];
}

function broadcast(shapes: readonly (readonly number[])[]): number[] {
  const rank = Math.max(...shapes.map(({ length }) => length));
  return Array.from({ length: rank }, (_, axis) =>
    shapes.reduce((dim, shape) => {
      const own = shape[axis - rank + shape.length] ?? 1;
      return own === 1 ? dim : own;
    }, 1),
  );
}

function elementwise(work: (...numbers: number[]) => number): Operator {
  return (_, inputs) => {
    const dims = broadcast(inputs.map((input) => input.dims));
    const data = new Float64Array(size(dims));
    let at = 0;
    for (const place of places(dims)) data[at++] = work(...inputs.map((input) => spread(input, place)));
    return [{ dims, data }];
  };
}

function build(dims: readonly number[], work: (place: number[]) => number): Array64 {
  const data = new Float64Array(size(dims));
  let at = 0;
  for (const place of places(dims)) data[at++] = work(place);
  return { dims, data };
}

/** Matrices over the last two axes; the axes before them are side by side, or the right one is the same for all. */
function product(a: Array64, b: Array64, transA: boolean, transB: boolean): Array64 {
  const [m, k] = transA ? [a.dims.at(-1)!, a.dims.at(-2)!] : [a.dims.at(-2)!, a.dims.at(-1)!];
  const n = transB ? b.dims.at(-2)! : b.dims.at(-1)!;
  const batches = size(a.dims.slice(0, -2));
  const data = new Float64Array(batches * m * n);
  const [aRow, aInner] = transA ? [1, m] : [k, 1];
  const [bInner, bCol] = transB ? [1, k] : [n, 1];
  for (let batch = 0; batch < batches; batch++) {
    const aFrom = batch * m * k;
    const bFrom = b.dims.length === 2 ? 0 : batch * k * n;
    for (let row = 0; row < m; row++) {
      for (let col = 0; col < n; col++) {
        let sum = 0;
        for (let inner = 0; inner < k; inner++) {
          sum += a.data[aFrom + row * aRow + inner * aInner] * b.data[bFrom + inner * bInner + col * bCol];
        }
        data[(batch * m + row) * n + col] = sum;
      }
    }
  }
  return { dims: [...a.dims.slice(0, -2), m, n], data };
}

function matmul(transA: (node: GraphNode) => number, transB: (node: GraphNode) => number): Operator {
  return (node, [a, b]) => [product(a, b, transA(node) === 1, transB(node) === 1)];
}

function reduce(work: (values: number[]) => number): Operator {
  return (node, [x, axes]) => {
    const rank = x.dims.length;
    const isNothing = axes !== undefined && axes.data.length === 0 && whole(node, "noop_with_empty_axes", 0) === 1;
    if (isNothing) return [x];
    const gone = axes === undefined ? x.dims.map((_, axis) => axis) : [...axes.data].map((axis) => axisOf(axis, rank));
    const kept = x.dims.map((dim, axis) => (gone.includes(axis) ? 1 : dim));
    const buckets = Array.from({ length: size(kept) }, (): number[] => []);
    let at = 0;
    for (const place of places(x.dims)) {
      const to = place.map((index, axis) => (gone.includes(axis) ? 0 : index));
      buckets[offset(to, kept)].push(x.data[at++]);
    }
    const dims = whole(node, "keepdims", 1) === 1 ? kept : kept.filter((_, axis) => !gone.includes(axis));
    return [{ dims, data: Float64Array.from(buckets, work) }];
  };
}

const sum = (values: number[]): number => values.reduce((total, value) => total + value, 0);

/** Rows of the last axis, each worked on by itself. */
function rows(x: Array64, work: (row: number[]) => number[]): Array64 {
  const width = x.dims.at(-1)!;
  const data = new Float64Array(x.data.length);
  for (let at = 0; at < data.length; at += width) data.set(work([...x.data.subarray(at, at + width)]), at);
  return { dims: x.dims, data };
}

/** source: Abramowitz & Stegun 7.1.5, the series, and 7.1.14, the continued fraction, where the series loses digits */
function erf(x: number): number {
  if (Math.abs(x) > 2.5) {
    let fraction = 0;
    for (let n = 80; n > 0; n--) fraction = n / 2 / (Math.abs(x) + fraction);
    const rest = Math.exp(-x * x) / Math.sqrt(Math.PI) / (Math.abs(x) + fraction);
    return Math.sign(x) * (1 - rest);
  }
  let term = x;
  let total = x;
  for (let n = 1; n < 60; n++) {
    term *= (-x * x) / n;
    total += term / (2 * n + 1);
  }
  return (2 / Math.sqrt(Math.PI)) * total;
}

function split(x: Array64, sizes: readonly number[], axis: number): Array64[] {
  let from = 0;
  return sizes.map((length) => {
    const begin = from;
    from += length;
    const dims = x.dims.map((dim, at) => (at === axis ? length : dim));
    return build(
      dims,
      (place) =>
        x.data[
          offset(
            place.map((index, at) => (at === axis ? index + begin : index)),
            x.dims,
          )
        ],
    );
  });
}

function reshape(x: Array64, shape: readonly number[]): Array64[] {
  const dims = shape.map((dim, axis) => (dim === 0 ? x.dims[axis] : dim));
  const known = size(dims.filter((dim) => dim !== -1));
  return [{ dims: dims.map((dim) => (dim === -1 ? x.data.length / known : dim)), data: x.data }];
}

function norm(isCentred: boolean): Operator {
  return (node, [x, weight, bias]) => {
    const eps = real(node, "epsilon", 1e-5);
    return [
      rows(x, (row) => {
        const middle = isCentred ? sum(row) / row.length : 0;
        const size = Math.sqrt(sum(row.map((value) => (value - middle) ** 2)) / row.length + eps);
        return row.map((value, col) => ((value - middle) / size) * weight.data[col] + (bias?.data[col] ?? 0));
      }),
    ];
  };
}

/** Halves of each head (or neighbours, interleaved) turned by the angle of their place. */
const rotary: Operator = (node, [x, cos, sin, ids]) => {
  const [batch, tokens, width] = x.dims;
  const heads = whole(node, "num_heads", 0);
  const headDim = width / heads;
  const pairs = cos.dims[1];
  const isInterleaved = whole(node, "interleaved", 0) === 1;
  const data = x.data.slice();
  for (let row = 0; row < batch * tokens; row++) {
    for (let head = 0; head < heads; head++) {
      for (let pair = 0; pair < pairs; pair++) {
        const base = row * width + head * headDim;
        const [a, b] = isInterleaved ? [base + 2 * pair, base + 2 * pair + 1] : [base + pair, base + pair + pairs];
        const [c, s] = [cos, sin].map((table) => table.data[ids.data[row] * pairs + pair]);
        data[a] = c * x.data[a] - s * x.data[b];
        data[b] = s * x.data[a] + c * x.data[b];
      }
    }
  }
  return [{ dims: x.dims, data }];
};

/** ScatterElements, GatherElements: the index stands at `axis`. */
function scatterElements(node: GraphNode, [x, indices, updates]: readonly Array64[]): Array64[] {
  const axis = axisOf(whole(node, "axis", 0), x.dims.length);
  const data = x.data.slice();
  let at = 0;
  for (const place of places(indices.dims)) {
    const to = offset(
      place.map((index, which) => (which === axis ? indices.data[at] : index)),
      x.dims,
    );
    data[to] = node.attributes.reduction === "add" ? data[to] + updates.data[at] : updates.data[at];
    at++;
  }
  return [{ dims: x.dims, data }];
}

/** Rows of `x` that (…, k) indices name by their first k axes. */
function* named(x: Array64, indices: Array64): Generator<[from: number, width: number]> {
  const k = indices.dims.at(-1)!;
  const width = size(x.dims.slice(k));
  for (let at = 0; at < indices.data.length; at += k) {
    yield [offset([...indices.data.subarray(at, at + k)], x.dims.slice(0, k)) * width, width];
  }
}

const OPERATORS: Readonly<Record<string, Operator>> = {
  Identity: (_, [x]) => [x],
  Cast: (_, [x]) => [x],
  Add: elementwise((a, b) => a + b),
  Sub: elementwise((a, b) => a - b),
  Mul: elementwise((a, b) => a * b),
  Div: elementwise((a, b) => a / b),
  Neg: elementwise((a) => -a),
  Abs: elementwise(Math.abs),
  Sign: elementwise(Math.sign),
  Min: elementwise(Math.min),
  Max: elementwise(Math.max),
  Floor: elementwise(Math.floor),
  Clip: elementwise((x, low = -Infinity, high = Infinity) => Math.min(Math.max(x, low), high)),
  Greater: elementwise((a, b) => Number(a > b)),
  Where: elementwise((condition, a, b) => (condition === 1 ? a : b)),
  Exp: elementwise(Math.exp),
  Log: elementwise(Math.log),
  Sqrt: elementwise(Math.sqrt),
  Erf: elementwise(erf),
  Tanh: elementwise(Math.tanh),
  Relu: elementwise((x) => Math.max(x, 0)),
  Sigmoid: elementwise((x) => 1 / (1 + Math.exp(-x))),
  Softplus: elementwise((x) => Math.log1p(Math.exp(x))),
  Gelu: (node, inputs) => {
    const bent = (x: number): number => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
    const exact = (x: number): number => 0.5 * x * (1 + erf(x / Math.SQRT2));
    return elementwise(node.attributes.approximate === "tanh" ? bent : exact)(node, inputs);
  },
  Softmax: (_, [x]) => [
    rows(x, (row) => {
      const max = Math.max(...row);
      const total = sum(row.map((value) => Math.exp(value - max)));
      return row.map((value) => Math.exp(value - max) / total);
    }),
  ],
  MatMul: matmul(
    () => 0,
    () => 0,
  ),
  FusedMatMul: matmul(
    (node) => whole(node, "transA", 0),
    (node) => whole(node, "transB", 0),
  ),
  Gemm: matmul(
    (node) => whole(node, "transA", 0),
    (node) => whole(node, "transB", 0),
  ),
  Einsum: (node, [a, b]) => [
    product(a, b, `${node.attributes.equation}`.startsWith("...ji"), `${node.attributes.equation}`.includes("...kj")),
  ],
  RMSNormalization: norm(false),
  LayerNormalization: norm(true),
  RotaryEmbedding: rotary,
  ReduceSum: reduce(sum),
  ReduceMean: reduce((values) => sum(values) / values.length),
  ReduceSumSquare: reduce((values) => sum(values.map((value) => value ** 2))),
  Shape: (node, [x]) => {
    const from = axisOf(whole(node, "start", 0), x.dims.length);
    const to = axisOf(whole(node, "end", x.dims.length), x.dims.length);
    const dims = x.dims.slice(from, node.attributes.end === undefined ? undefined : to);
    return [array([dims.length], dims)];
  },
  ConstantOfShape: (_, [shape]) => [build([...shape.data], () => 0)],
  Reshape: (_, [x, shape]) => reshape(x, [...shape.data]),
  Squeeze: (_, [x, axes]) => {
    const gone = [...axes.data].map((axis) => axisOf(axis, x.dims.length));
    return [{ dims: x.dims.filter((_, axis) => !gone.includes(axis)), data: x.data }];
  },
  Unsqueeze: (_, [x, axes]) => {
    const rank = x.dims.length + axes.data.length;
    const fresh = [...axes.data].map((axis) => axisOf(axis, rank));
    const old = [...x.dims];
    return [
      { dims: Array.from({ length: rank }, (_, axis) => (fresh.includes(axis) ? 1 : old.shift()!)), data: x.data },
    ];
  },
  Transpose: (node, [x]) => {
    const perm = (node.attributes.perm as readonly bigint[]).map(Number);
    const dims = perm.map((axis) => x.dims[axis]);
    return [
      build(
        dims,
        (place) =>
          x.data[
            offset(
              perm.map((_, axis) => place[perm.indexOf(axis)]),
              x.dims,
            )
          ],
      ),
    ];
  },
  Split: (node, [x, sizes]) => split(x, [...sizes.data], axisOf(whole(node, "axis", 0), x.dims.length)),
  Concat: (node, inputs) => {
    const axis = axisOf(whole(node, "axis", 0), inputs[0].dims.length);
    const dims = inputs[0].dims.map((dim, at) => (at === axis ? sum(inputs.map((each) => each.dims[axis])) : dim));
    return [
      build(dims, (place) => {
        let index = place[axis];
        let which = 0;
        while (index >= inputs[which].dims[axis]) index -= inputs[which++].dims[axis];
        const each = inputs[which];
        return each.data[
          offset(
            place.map((value, at) => (at === axis ? index : value)),
            each.dims,
          )
        ];
      }),
    ];
  },
  Slice: (_, [x, starts, ends, axes]) => {
    const axis = axisOf(axes.data[0], x.dims.length);
    const [from, to] = [starts.data[0], ends.data[0]].map((at) => axisOf(at, x.dims[axis]));
    return [split(x, [from, to - from, x.dims[axis] - to], axis)[1]];
  },
  Pad: (_, [x, pads, , axes]) => {
    const axis = axisOf(axes.data[0], x.dims.length);
    const [before, behind] = pads.data;
    const dims = x.dims.map((dim, at) => (at === axis ? dim + before + behind : dim));
    return [
      build(dims, (place) => {
        const index = place[axis] - before;
        const isInside = index >= 0 && index < x.dims[axis];
        return isInside
          ? x.data[
              offset(
                place.map((value, at) => (at === axis ? index : value)),
                x.dims,
              )
            ]
          : 0;
      }),
    ];
  },
  Expand: (_, [x, shape]) => [build(broadcast([x.dims, [...shape.data]]), (place) => spread(x, place))],
  Tile: (_, [x, repeats]) => [
    build(
      x.dims.map((dim, axis) => dim * repeats.data[axis]),
      (place) =>
        x.data[
          offset(
            place.map((index, axis) => index % x.dims[axis]),
            x.dims,
          )
        ],
    ),
  ],
  Conv: (_, [x, weights, bias]) => {
    const kernel = weights.dims[2];
    return [
      build(x.dims, ([batch, channel, token]) => {
        let total = bias?.data[channel] ?? 0;
        for (let tap = 0; tap < kernel; tap++) {
          const from = token - kernel + 1 + tap;
          if (from >= 0) total += weights.data[channel * kernel + tap] * x.data[offset([batch, channel, from], x.dims)];
        }
        return total;
      }),
    ];
  },
  NonZero: (_, [x]) => {
    const found = [...places(x.dims)].filter((place) => x.data[offset(place, x.dims)] !== 0);
    return [build([x.dims.length, found.length], ([axis, which]) => found[which][axis])];
  },
  TopK: (_, [x, k]) => {
    const count = k.data[0];
    const width = x.dims.at(-1)!;
    const dims = [...x.dims.slice(0, -1), count];
    const indices = new Float64Array(size(dims));
    for (let row = 0; row < x.data.length / width; row++) {
      const own = x.data.subarray(row * width, (row + 1) * width);
      const order = [...own.keys()].sort((a, b) => own[b] - own[a] || a - b);
      indices.set(order.slice(0, count), row * count);
    }
    const data = indices.map((index, at) => x.data[Math.floor(at / count) * width + index]);
    return [
      { dims, data },
      { dims, data: indices },
    ];
  },
  Gather: (node, [x, indices]) => {
    const axis = axisOf(whole(node, "axis", 0), x.dims.length);
    const dims = [...x.dims.slice(0, axis), ...indices.dims, ...x.dims.slice(axis + 1)];
    const rank = indices.dims.length;
    return [
      build(dims, (place) => {
        const index = indices.data[offset(place.slice(axis, axis + rank), indices.dims)];
        return x.data[offset([...place.slice(0, axis), index, ...place.slice(axis + rank)], x.dims)];
      }),
    ];
  },
  GatherElements: (node, [x, indices]) => {
    const axis = axisOf(whole(node, "axis", 0), x.dims.length);
    return [
      build(indices.dims, (place) => {
        const index = indices.data[offset(place, indices.dims)];
        return x.data[
          offset(
            place.map((value, at) => (at === axis ? index : value)),
            x.dims,
          )
        ];
      }),
    ];
  },
  ScatterElements: scatterElements,
  GatherND: (_, [x, indices]) => {
    const k = indices.dims.at(-1)!;
    const data: number[] = [];
    for (const [from, width] of named(x, indices)) data.push(...x.data.subarray(from, from + width));
    return [array([...indices.dims.slice(0, -1), ...x.dims.slice(k)], data)];
  },
  ScatterND: (node, [x, indices, updates]) => {
    const data = x.data.slice();
    let at = 0;
    for (const [from, width] of named(x, indices)) {
      for (let col = 0; col < width; col++, at++) {
        const before = node.attributes.reduction === "add" ? data[from + col] : 0;
        data[from + col] = before + updates.data[at];
      }
    }
    return [{ dims: x.dims, data }];
  },
};

export const INTERPRETED: readonly string[] = Object.keys(OPERATORS);
