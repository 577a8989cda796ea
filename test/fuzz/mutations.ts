import { randomNumbers } from "../donors.js";

/** A source of choices: the same seed gives the same input for ever. */
export class Chooser {
  private readonly random: () => number;

  constructor(seed: number) {
    this.random = randomNumbers(seed);
  }

  below(count: number): number {
    return Math.floor(this.random() * count);
  }

  pick<T>(values: readonly T[]): T {
    return values[this.below(values.length)];
  }

  chance(share: number): boolean {
    return this.random() < share;
  }
}

const DTYPES = ["BF16", "F16", "F32", "F64", "I8", "BOOL", "F4", "F8_E4M3", "U64", "C64", "F6_E2M3"];
const BITS: Record<string, number> = {
  BF16: 16,
  F16: 16,
  F32: 32,
  F64: 64,
  I8: 8,
  BOOL: 8,
  F4: 4,
  F8_E4M3: 8,
  U64: 64,
  C64: 64,
  F6_E2M3: 6,
};
const NAMES = [
  "model.layers.0.self_attn.q_proj.weight",
  "a",
  "b",
  "1",
  "0",
  "__proto__",
  "constructor",
  "",
  "ü",
  "\u0001",
  'x"y',
  "layers.1.mlp.up_proj",
  "😀",
];
const NUMBERS = [
  "0",
  "1",
  "2",
  "4",
  "8",
  "-1",
  "1e3",
  "1.5",
  "9007199254740991",
  "9007199254740992",
  "18446744073709551615",
  "01",
  "-0",
  "1e999",
  "null",
  '"8"',
  "[]",
];
const VALUES = [
  "null",
  "true",
  "false",
  "[]",
  "{}",
  '""',
  '"F32"',
  "[1,2]",
  '{"a":1}',
  "[[[[[[]]]]]]",
  '"\\ud800"',
  '"\\u0041"',
  "0.1e-7",
];
const BYTES = [
  0x00, 0x09, 0x0a, 0x20, 0x22, 0x2c, 0x2d, 0x30, 0x39, 0x3a, 0x5b, 0x5c, 0x5d, 0x7b, 0x7d, 0x7f, 0x80, 0xbf, 0xc3,
  0xe2, 0xed, 0xf0, 0xff,
];

export interface FuzzFile {
  /** Length prefix, JSON, and the length the file pretends to have. */
  readonly prefix: Uint8Array;
  readonly json: Uint8Array;
  readonly fileByteLength: number;
}

/** A header that is good, mostly; then bent in its structure, then in its bytes. */
export function fuzzHeader(choose: Chooser): FuzzFile {
  const members: string[] = [];
  let position = 0;
  for (let i = choose.below(6); i > 0; i--) {
    const dtype = choose.pick(DTYPES);
    const shape = Array.from({ length: choose.below(4) }, () => choose.pick([0, 1, 2, 3, 4, 8]));
    const bits = shape.reduce((product, dimension) => product * dimension, 1) * BITS[dtype];
    const byteLength = Math.floor(bits / 8);
    const begin = position;
    position += byteLength;
    const name = choose.chance(0.8) ? `${choose.pick(NAMES)}${i}` : choose.pick(NAMES);
    const parts = [
      `"dtype":${bent(choose, `"${dtype}"`)}`,
      `"shape":[${shape.map((dimension) => number(choose, dimension)).join(",")}]`,
      `"data_offsets":[${number(choose, begin)},${number(choose, position)}]`,
    ];
    if (choose.chance(0.05)) parts.splice(choose.below(4), 0, `"extra":${choose.pick(VALUES)}`);
    if (choose.chance(0.03)) parts.splice(choose.below(parts.length), 1);
    if (choose.chance(0.03)) parts.push(choose.pick(parts.length > 0 ? parts : ['"shape":[]']));
    members.push(`${JSON.stringify(name)}:${bent(choose, `{${parts.join(",")}}`)}`);
  }
  if (choose.chance(0.3))
    members.splice(choose.below(members.length + 1), 0, `"__metadata__":${bent(choose, `{"format":"pt"}`)}`);
  if (choose.chance(0.05) && members.length > 0) members.push(choose.pick(members));
  if (choose.chance(0.2)) members.reverse();
  const json = bytesOf(choose, `{${members.join(choose.chance(0.1) ? " ,\n" : ",")}}`);
  const prefix = new Uint8Array(8);
  const announced = choose.chance(0.97)
    ? BigInt(json.byteLength)
    : BigInt(choose.pick([0, 1, 2 ** 31, 2 ** 52])) * BigInt(choose.pick([1, 2, 2047]));
  new DataView(prefix.buffer).setBigUint64(0, announced, true);
  const slip = choose.chance(0.04) ? choose.pick([-1, 1, 8, -8, 1e15]) : 0;
  return { prefix, json, fileByteLength: Math.max(0, 8 + json.byteLength + position + slip) };
}

/** An index that is good, mostly. */
export function fuzzIndex(choose: Chooser): Uint8Array {
  const files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
  const entries = Array.from({ length: choose.below(6) }, (_, i) => {
    const file = choose.chance(0.95)
      ? choose.pick(files)
      : choose.pick([
          "../x.safetensors",
          "/x.safetensors",
          "C:x.safetensors",
          "x",
          "",
          ".safetensors",
          "a/b.safetensors",
          "a\\b.safetensors",
          "\u0000.safetensors",
        ]);
    return `${JSON.stringify(choose.chance(0.9) ? `t${i}` : choose.pick(NAMES))}:${bent(choose, JSON.stringify(file))}`;
  });
  const members = [`"weight_map":${bent(choose, `{${entries.join(",")}}`)}`];
  if (choose.chance(0.7)) members.unshift(`"metadata":${bent(choose, `{"total_size":${number(choose, 8)}}`)}`);
  if (choose.chance(0.05)) members.push(`"extra":${choose.pick(VALUES)}`);
  if (choose.chance(0.03)) members.push(choose.pick(members));
  return bytesOf(choose, `{${members.join(",")}}`);
}

function number(choose: Chooser, good: number): string {
  return choose.chance(0.985) ? String(good) : choose.pick(NUMBERS);
}

function bent(choose: Chooser, good: string): string {
  return choose.chance(0.985) ? good : choose.pick(VALUES);
}

/** The text as bytes, padded, and now and then with bytes changed, doubled, moved or cut. */
function bytesOf(choose: Chooser, text: string): Uint8Array {
  let bytes: Uint8Array = new TextEncoder().encode(`${text}${" ".repeat(choose.below(9))}`);
  if (choose.chance(0.6)) return bytes;
  for (let i = choose.below(3); i >= 0; i--) {
    const at = choose.below(bytes.length + 1);
    const end = at + choose.below(Math.min(40, bytes.length - at + 1));
    const parts = choose.pick([
      () => [bytes.subarray(0, at), Uint8Array.of(choose.pick(BYTES)), bytes.subarray(at + 1)],
      () => [bytes.subarray(0, at), Uint8Array.of(choose.pick(BYTES)), bytes.subarray(at)],
      () => [bytes.subarray(0, at), bytes.subarray(end)],
      () => [bytes.subarray(0, end), bytes.subarray(at)],
      () => [bytes.subarray(0, at)],
      () => [bytes.subarray(0, at), new TextEncoder().encode("[".repeat(1 + choose.below(300))), bytes.subarray(at)],
      () => [bytes.subarray(0, at), new TextEncoder().encode(choose.pick(NUMBERS)), bytes.subarray(end)],
    ])();
    bytes = Buffer.concat(parts);
  }
  return bytes;
}
