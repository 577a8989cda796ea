// Damages packed bands and packed shards by the million and demands of every one: a coded refusal, or the right
// weights.
//
//   nice node bench/pack-fuzz.mjs [bands, default 1000000] [shards, default 20000] [seed, default 1]
//
// For a band, the decoder alone is asked first: it must refuse with DONOR_PACK_* or give as many bytes as it should,
// write nothing outside its buffers (guard bytes), and not depend on what lies behind its input. Where it gives other
// bytes than the right ones the band's checksum must catch it. For a shard, any byte of the file is damaged, tables and
// headers first of all.
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isPhysariumError } from "../dist/errors.js";
import { BandDecoder } from "../dist/pack/band-decoder.js";
import { BandEncoder } from "../dist/pack/band-encoder.js";
import { BandReader } from "../dist/pack/band-reader.js";
import { Checksum } from "../dist/pack/checksum.js";
import { packModel } from "../dist/pack/pack-model.js";
import { bandRange, readPackedShard } from "../dist/pack/packed-shard.js";
import { isFloatDtype } from "../dist/safetensors/dtypes.js";
import { gaussianWords, seededRandom, wildWords } from "./pack-samples.mjs";

const [bands = 1_000_000, shards = 20_000, seed = 1] = process.argv.slice(2).map(Number);
const random = seededRandom(seed);
const pick = (below) => Math.floor(random() * below);
const checksum = await Checksum.create();
const reader = await BandReader.create();

fuzzBands();
await fuzzShards();

function mutate(bytes, steering) {
  const kind = random();
  if (kind < 0.08) return bytes.slice(0, pick(bytes.byteLength));
  if (kind < 0.12) return Uint8Array.from([...bytes, ...Array.from({ length: 1 + pick(9) }, () => pick(256))]);
  const damaged = bytes.slice();
  for (let edits = 1 + pick(kind < 0.6 ? 1 : 6); edits > 0; edits--) {
    const at = random() < 0.5 ? pick(Math.min(steering, damaged.byteLength)) : pick(damaged.byteLength);
    damaged[at] = random() < 0.5 ? damaged[at] ^ (1 << pick(8)) : [0, 1, 0xff, 0x7f, 0x80, pick(256)][pick(6)];
  }
  return damaged;
}

function fuzzBands() {
  const encoder = new BandEncoder();
  const cases = [];
  for (const dtype of ["BF16", "F16", "F32"]) {
    const size = dtype === "F32" ? 4 : 2;
    for (const elements of [1, 7, 33, 250, 1000, 4099, 70_001]) {
      const decoder = new BandDecoder({ maxElements: elements + 300 });
      const zeros = new Uint8Array(size * elements);
      for (const raw of [gaussianWords(dtype, elements, 0.2825, random), wildWords(dtype, elements, random), zeros]) {
        encoder.input(raw.byteLength).set(raw);
        const packed = encoder.encode(dtype, elements);
        // Large bands take long: few of them.
        const weight = elements > 5000 ? 1 : elements > 500 ? 8 : 20;
        if (packed)
          for (let i = 0; i < weight; i++) cases.push({ dtype, elements, packed, decoder, checksum: checksum.of(raw) });
      }
    }
  }
  const outcomes = {};
  const started = performance.now();
  for (let i = 0; i < bands; i++) {
    const chosen = cases[pick(cases.length)];
    const damaged = mutate(chosen.packed, 176);
    if (damaged.byteLength > 4 * chosen.elements + 1000) continue;
    const first = decode(chosen, damaged, 0);
    const second = decode(chosen, damaged, 0xff);
    if (first !== second)
      throw new Error(`case ${i}: the outcome depends on what lies behind the input: ${first}, ${second}`);
    const stray = chosen.decoder.strayWrite();
    if (stray !== undefined) throw new Error(`case ${i}: something was written behind ${stray}`);
    const outcome =
      typeof first === "string"
        ? first
        : first === chosen.checksum
          ? "the right weights"
          : "other weights: caught by the checksum";
    outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
  }
  print(`${bands} damaged bands, seed ${seed}, ${((performance.now() - started) / 1000).toFixed(0)} s`, outcomes);
}

/** The code of the refusal, or the checksum of what was decoded. */
function decode({ dtype, elements, decoder }, damaged, garbage) {
  decoder.input(damaged.byteLength + 64).fill(garbage);
  decoder.input(damaged.byteLength).set(damaged);
  try {
    return checksum.of(decoder.decode(dtype, damaged.byteLength, elements, "fuzz"));
  } catch (error) {
    if (isPhysariumError(error, "DONOR_PACK_")) return error.code;
    throw error;
  }
}

async function fuzzShards() {
  const folder = mkdtempSync(join(tmpdir(), "physarium-fuzz-"));
  const packed = join(folder, "packed");
  await packModel("examples/donors/loam", packed, { workers: 0, bandElements: 1 << 16 });
  const file = "model-00002-of-00004.physarium.safetensors";
  const bytes = new Uint8Array(readFileSync(join(packed, file)));
  rmSync(folder, { recursive: true });
  const intact = await readShard(bytes, file);
  // Our header, the tables and the donor's header.
  const { tensors } = await readPackedShard(sourceOf(bytes), file, checksum);
  const dataAt = Math.min(...[...tensors.values()].map((tensor) => tensor.dataByteOffset));
  const outcomes = {};
  const started = performance.now();
  for (let i = 0; i < shards; i++) {
    const outcome = await readShard(mutate(bytes, dataAt), file);
    const name = outcome === intact ? "the right weights" : outcome;
    if (typeof name !== "string") throw new Error(`shard ${i}: wrong weights`);
    outcomes[name] = (outcomes[name] ?? 0) + 1;
  }
  print(`${shards} damaged shards, seed ${seed}, ${((performance.now() - started) / 1000).toFixed(0)} s`, outcomes);
}

/** One checksum over everything that the shard gives, or the code of the refusal. */
async function readShard(bytes, file) {
  const source = sourceOf(bytes);
  try {
    const shard = await readPackedShard(source, file, checksum);
    let sum = checksum.of(shard.headerBytes);
    for (const tensor of shard.tensors.values()) {
      for (let band = 0; 2 * band < tensor.table.length; band++) {
        const dtype = isFloatDtype(tensor.info.dtype) ? tensor.info.dtype : undefined;
        const raw = await reader.read(source, { ...bandRange(tensor, band), dtype, where: "fuzz" });
        sum = (sum * 31n + checksum.of(raw)) & 0xffffffffffffffffn;
      }
    }
    return sum;
  } catch (error) {
    if (isPhysariumError(error, "DONOR_")) return error.code;
    throw error;
  }
}

function sourceOf(bytes) {
  return {
    byteLength: bytes.byteLength,
    read: async (begin, end) => bytes.slice(begin, end),
    readInto: async (buffer, at) => buffer.set(bytes.subarray(at, at + buffer.byteLength)),
  };
}

function print(title, outcomes) {
  console.log(title);
  for (const [name, count] of Object.entries(outcomes).sort((a, b) => b[1] - a[1]))
    console.log(`  ${String(count).padStart(8)}  ${name}`);
}
