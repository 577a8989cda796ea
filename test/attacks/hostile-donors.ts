import { execFileSync } from "node:child_process";
import {
  closeSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { gaussianTensor, safetensorsFile, type TensorFixture, writeDonor } from "../donors.js";

const INDEX = "model.safetensors.index.json";
const SHARD_1 = "model-00001-of-00002.safetensors";
const SHARD_2 = "model-00002-of-00002.safetensors";

/** A trick, how a donor is bent to it, and the code it must raise; `undefined` where surgery must cope. */
export interface Attack {
  readonly trick: string;
  readonly code: string | undefined;
  readonly bend: (folder: string) => void;
  /** Words that the message must hold. */
  readonly says?: string | RegExp;
}

export const TENSORS: readonly (readonly TensorFixture[])[] = [
  [
    gaussianTensor("model.layers.0.self_attn.q_proj.weight", "BF16", [32, 32], 1),
    gaussianTensor("a.norm", "F32", [8], 2),
  ],
  [gaussianTensor("model.layers.1.self_attn.q_proj.weight", "F32", [32, 32], 3)],
];

const [Q0, NORM] = TENSORS[0].map(({ name }) => name);
const Q1 = TENSORS[1][0].name;

/** A good donor of two shards. */
export function goodDonor(folder: string): void {
  writeDonor(folder, TENSORS);
}

function index(map: Record<string, string> | string): (folder: string) => void {
  const text =
    typeof map === "string"
      ? map
      : JSON.stringify({ metadata: {}, weight_map: { [Q0]: SHARD_1, [NORM]: SHARD_1, [Q1]: SHARD_2, ...map } });
  return (folder) => writeFileSync(join(folder, INDEX), text);
}

/** Shard 2 as these bytes of JSON and as much data. */
function shard(json: string | Uint8Array, dataBytes = 4096, announced?: bigint): (folder: string) => void {
  return (folder) => {
    const bytes = typeof json === "string" ? Buffer.from(json) : Buffer.from(json);
    const prefix = Buffer.alloc(8);
    prefix.writeBigUInt64LE(announced ?? BigInt(bytes.byteLength));
    writeFileSync(join(folder, SHARD_2), Buffer.concat([prefix, bytes, Buffer.alloc(dataBytes)]));
  };
}

/** A sparse shard whose header announces `announced` bytes, of which `json` is the beginning. */
function sparseShard(announced: bigint, byteLength: number, json = ""): (folder: string) => void {
  return (folder) => {
    const file = openSync(join(folder, SHARD_2), "w");
    const prefix = Buffer.alloc(8);
    prefix.writeBigUInt64LE(announced);
    writeSync(file, Buffer.concat([prefix, Buffer.from(json)]));
    ftruncateSync(file, byteLength);
    closeSync(file);
  };
}

const entry = (begin = 0, end = 4096, shape = "[32,32]", dtype = "F32") =>
  `{"dtype":"${dtype}","shape":${shape},"data_offsets":[${begin},${end}]}`;
const good = `${JSON.stringify(Q1)}:${entry()}`;
const deep = (depth: number) => "[".repeat(depth) + "]".repeat(depth);

export const ATTACKS: readonly Attack[] = [
  ...[
    "../victim.safetensors",
    "/etc/victim.safetensors",
    "C:\\victim.safetensors",
    "sub/victim.safetensors",
    "..",
    ".hidden.safetensors",
    "a\u0000.safetensors",
    "config.json",
    "",
  ].map(
    (file): Attack => ({
      trick: `the index puts a tensor in ${JSON.stringify(file)}`,
      code: "DONOR_INDEX_PATH",
      bend: index({ [Q1]: file }),
      says: "do not trust this index",
    }),
  ),
  {
    trick: "a shard of the index is absent",
    code: "DONOR_SHARD_MISSING",
    bend: (f) => rmSync(join(f, SHARD_2)),
    says: SHARD_2,
  },
  {
    trick: "a shard is a folder",
    code: "DONOR_SHARD_MISSING",
    bend: (f) => {
      rmSync(join(f, SHARD_2));
      mkdirSync(join(f, SHARD_2));
    },
  },
  { trick: "shards without an index", code: "DONOR_INDEX_MISSING", bend: (f) => rmSync(join(f, INDEX)) },
  {
    trick: "a shard that the index does not list is left out",
    code: undefined,
    bend: (f) => writeFileSync(join(f, "model-00003-of-00002.safetensors"), safetensorsFile(TENSORS[0])),
  },
  {
    trick: "a tensor in two shards",
    code: "DONOR_TENSOR_TWICE",
    bend: (f) => writeFileSync(join(f, SHARD_2), safetensorsFile([...TENSORS[1], TENSORS[0][1]])),
    says: NORM,
  },
  {
    trick: "the index puts a tensor in the other shard",
    code: "DONOR_INDEX_MISMATCH",
    bend: index({ [NORM]: SHARD_2 }),
    says: NORM,
  },
  {
    trick: "the index lists a tensor no shard has",
    code: "DONOR_INDEX_MISMATCH",
    bend: index({ ghost: SHARD_1 }),
    says: "ghost",
  },
  {
    trick: "a shard has a tensor the index does not list",
    code: "DONOR_INDEX_MISMATCH",
    bend: (f) =>
      writeFileSync(join(f, SHARD_2), safetensorsFile([...TENSORS[1], gaussianTensor("stowaway", "F32", [2], 9)])),
    says: "stowaway",
  },
  { trick: "an index without weight_map", code: "DONOR_INDEX_JSON", bend: index(`{"metadata":{}}`) },
  { trick: "an empty weight_map", code: "DONOR_NO_WEIGHTS", bend: index(`{"weight_map":{}}`) },
  { trick: "an index that is cut off", code: "DONOR_INDEX_JSON", bend: index(`{"weight_map":{"${Q0}":"model-0`) },
  { trick: "an empty index", code: "DONOR_INDEX_JSON", bend: index("") },
  {
    trick: "a key twice in the index",
    code: "DONOR_INDEX_DUPLICATE",
    bend: index(`{"weight_map":{"x":"${SHARD_1}","x":"${SHARD_2}"}}`),
  },
  {
    trick: "an index nested a million deep",
    code: "DONOR_INDEX_JSON",
    bend: index(`{"x":${deep(1_000_000)},"weight_map":{}}`),
    says: "nested",
  },
  {
    trick: "a header of 2^60 bytes",
    code: "DONOR_HEADER_TOO_LARGE",
    bend: sparseShard(1n << 60n, 5000),
    says: "1152921504606846976",
  },
  { trick: "a header of 2^64 − 1 bytes", code: "DONOR_HEADER_TOO_LARGE", bend: sparseShard((1n << 64n) - 1n, 5000) },
  {
    trick: "a header of one byte over the cap, all of it there",
    code: "DONOR_HEADER_TOO_LARGE",
    bend: sparseShard(100_000_001n, 100_005_000),
  },
  {
    trick: "a header of 100 MB of zeros",
    code: "DONOR_HEADER_JSON",
    bend: sparseShard(100_000_000n, 100_005_000, `{${good}`),
  },
  { trick: "a header longer than its file", code: "DONOR_HEADER_LENGTH", bend: shard(`{${good}}`, 0, 10_000n) },
  {
    trick: "a file of three bytes",
    code: "DONOR_HEADER_TOO_SMALL",
    bend: (f) => writeFileSync(join(f, SHARD_2), "abc"),
  },
  { trick: "an empty file", code: "DONOR_HEADER_TOO_SMALL", bend: (f) => writeFileSync(join(f, SHARD_2), "") },
  {
    trick: "a header nested 100,000 deep",
    code: "DONOR_HEADER_JSON",
    bend: shard(`{${good.slice(0, -1)},"x":${deep(100_000)}}}`),
    says: "nested",
  },
  { trick: "a name twice in a header", code: "DONOR_HEADER_DUPLICATE", bend: shard(`{${good},${good}}`), says: Q1 },
  {
    trick: "a name twice, once in escapes",
    code: "DONOR_HEADER_DUPLICATE",
    bend: shard(`{${good},"\\u006d${Q1.slice(1)}":${entry()}}`),
    says: Q1,
  },
  {
    trick: "a member twice in a tensor",
    code: "DONOR_HEADER_DUPLICATE",
    bend: shard(`{"${Q1}":{"dtype":"F32","dtype":"F32","shape":[32,32],"data_offsets":[0,4096]}}`),
  },
  {
    trick: "a name of a megabyte",
    code: "DONOR_HEADER_NAME",
    bend: shard(`{"${"layers.1.".repeat(120_000)}":${entry()}}`),
  },
  {
    trick: "a shape of a million ones",
    code: "DONOR_HEADER_TENSOR",
    bend: shard(`{"${Q1}":${entry(0, 4, `[${"1,".repeat(1_000_000)}1]`)}}`, 4),
  },
  {
    trick: "a shape whose product passes 2^64",
    code: "DONOR_HEADER_OVERFLOW",
    bend: shard(`{"${Q1}":${entry(0, 4096, "[9007199254740991,9007199254740991]")}}`),
  },
  {
    trick: "a hole between tensors",
    code: "DONOR_HEADER_OFFSETS",
    bend: shard(`{"${Q1}":${entry(8, 4104)}}`, 4104),
    says: "hole",
  },
  {
    trick: "tensors that overlap",
    code: "DONOR_HEADER_OFFSETS",
    bend: shard(`{${good},"b":${entry(4092, 4100, "[2]")}}`, 4100),
    says: "overlaps",
  },
  { trick: "a truncated data section", code: "DONOR_HEADER_END", bend: shard(`{${good}}`, 4095), says: "truncated" },
  { trick: "foreign bytes behind the data", code: "DONOR_HEADER_END", bend: shard(`{${good}}`, 4097) },
  {
    trick: "offsets past 2^53",
    code: "DONOR_HEADER_JSON",
    bend: shard(`{"${Q1}":{"dtype":"F32","shape":[32,32],"data_offsets":[9007199254740993,9007199254745089]}}`),
  },
  {
    trick: "an unknown dtype",
    code: "DONOR_HEADER_DTYPE",
    bend: shard(`{"${Q1}":${entry(0, 4096, "[32,32]", "F32\\u001b[2J")}}`),
  },
  {
    trick: "a name that is no UTF-8",
    code: "DONOR_HEADER_JSON",
    bend: shard(Buffer.concat([Buffer.from(`{"`), Buffer.from([0xff, 0xfe]), Buffer.from(`":${entry()}}`)])),
  },
  { trick: "half a surrogate pair as a name", code: "DONOR_HEADER_JSON", bend: shard(`{"\\ud800":${entry()}}`) },
  {
    trick: "a symbolic link in a circle as a side file",
    code: "DONOR_SYMLINK",
    bend: (f) => symlinkSync("loop.json", join(f, "loop.json")),
    says: "circle",
  },
  {
    trick: "a dangling link as a side file",
    code: "DONOR_SYMLINK",
    bend: (f) => symlinkSync("nowhere", join(f, "tokenizer.json")),
    says: "points to nothing",
  },
  {
    trick: "a dangling link as a shard",
    code: "DONOR_SYMLINK",
    bend: (f) => {
      rmSync(join(f, SHARD_2));
      symlinkSync("../blobs/gone", join(f, SHARD_2));
    },
  },
  {
    trick: "a FIFO as a side file",
    code: "DONOR_NOT_A_FILE",
    bend: (f) => execFileSync("mkfifo", [join(f, "tokenizer.json")]),
  },
  {
    trick: "a FIFO as a shard",
    code: "DONOR_NOT_A_FILE",
    bend: (f) => {
      rmSync(join(f, SHARD_2));
      execFileSync("mkfifo", [join(f, SHARD_2)]);
    },
  },
  {
    trick: "a device as a side file",
    code: "DONOR_NOT_A_FILE",
    bend: (f) => symlinkSync("/dev/zero", join(f, "vocab.json")),
  },
  {
    trick: "the index is a device",
    code: "DONOR_NOT_A_FILE",
    bend: (f) => {
      rmSync(join(f, INDEX));
      symlinkSync("/dev/zero", join(f, INDEX));
    },
  },
  {
    trick: "the donor is a file",
    code: "DONOR_NOT_A_FOLDER",
    bend: (f) => {
      rmSync(f, { recursive: true });
      writeFileSync(f, "x");
    },
  },
  { trick: "there is no donor", code: "DONOR_NOT_FOUND", bend: (f) => rmSync(f, { recursive: true }) },
  {
    trick: "the donor is a link in a circle",
    code: "DONOR_SYMLINK",
    bend: (f) => {
      rmSync(f, { recursive: true });
      symlinkSync(f, f);
    },
  },
  { trick: "a folder in a circle is left out", code: undefined, bend: (f) => symlinkSync(".", join(f, "again")) },
  {
    trick: "a file named physarium is left out",
    code: undefined,
    bend: (f) => writeFileSync(join(f, "physarium"), "in the way"),
  },
  {
    trick: "a folder of the donor's own records is left out",
    code: undefined,
    bend: (f) => {
      mkdirSync(join(f, "physarium"));
      writeFileSync(join(f, "physarium/ledger.jsonl"), "{}");
    },
  },
  {
    trick: "zero-sized tensors at the begin, in between and at the end",
    code: undefined,
    bend: (f) => odd(f, [empty("e0"), ...TENSORS[1], empty("e1"), empty("e2")]),
  },
  {
    trick: "names like __proto__, constructor, 1 and an empty one",
    code: undefined,
    bend: (f) =>
      odd(f, [
        ...["__proto__", "constructor", "1", "0", "", "toString"].map((name, i) => gaussianTensor(name, "F32", [4], i)),
        ...TENSORS[1],
      ]),
  },
  {
    trick: "names with newlines, escapes and terminal controls",
    code: undefined,
    bend: (f) =>
      odd(f, [
        gaussianTensor("\u001b[2J\u009b31m\nlayers.1.x\u202e", "F32", [4], 1),
        gaussianTensor("model.layers.2.\u001b]0;owned\u0007.q_proj.weight", "F32", [16, 16], 4),
        ...TENSORS[1],
      ]),
  },
  {
    trick: "side files with terminal controls in their names",
    code: undefined,
    bend: (f) => writeFileSync(join(f, "\u001b[31mREADME\u009b.md"), "text"),
  },
  {
    trick: "a quantised projection",
    code: "DONOR_QUANTISED",
    bend: (f) =>
      odd(f, [
        ...TENSORS[1],
        { name: "model.layers.2.mlp.up_proj.qweight", dtype: "I32", shape: [4, 4], bytes: new Uint8Array(64) },
      ]),
  },
  {
    trick: "no target at all, in names with controls",
    code: "DONOR_NO_TARGET",
    bend: (f) => {
      rmSync(f, { recursive: true });
      writeDonor(f, [[gaussianTensor("\u001b[2Jnorm", "F32", [4], 1)]]);
    },
  },
];

function empty(name: string): TensorFixture {
  return { name, dtype: "BF16", shape: [0, 7], bytes: new Uint8Array(0) };
}

/** The donor again, with these tensors in its second shard. */
function odd(folder: string, second: readonly TensorFixture[]): void {
  rmSync(folder, { recursive: true });
  writeDonor(`${folder}.new`, [TENSORS[0], second]);
  renameSync(`${folder}.new`, folder);
  // Built as text: an object would lose or move such names.
  const lines = [...TENSORS[0].map(({ name }) => [name, SHARD_1]), ...second.map(({ name }) => [name, SHARD_2])];
  index(`{"weight_map":{${lines.map(([name, file]) => `${JSON.stringify(name)}:"${file}"`).join(",")}}}`)(folder);
}
