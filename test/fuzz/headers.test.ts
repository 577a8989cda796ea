import { describe, expect, test } from "vitest";
import { isPhysariumError } from "../../dist/errors.js";
import { bitsPerElement } from "../../dist/safetensors/dtypes.js";
import { MAX_HEADER_BYTE_LENGTH, readHeader, type SafetensorsHeader } from "../../dist/safetensors/header.js";
import { parseShardIndex, type ShardIndex } from "../../dist/safetensors/shard-index.js";
import { Chooser, type FuzzFile, fuzzHeader, fuzzIndex } from "./mutations.js";

/** Inputs of each kind; millions by hand with PHYSARIUM_FUZZ. */
const INPUTS = Number(process.env.PHYSARIUM_FUZZ ?? 50_000);
const SEED = Number(process.env.PHYSARIUM_SEED ?? 1);
/** One input may never take longer: a parser that loops or backtracks would. */
const MAX_INPUT_MS = 2_000;

function tally() {
  const counts = new Map<string, number>();
  return {
    counts,
    add: (outcome: string) => counts.set(outcome, (counts.get(outcome) ?? 0) + 1),
    print: (what: string, started: number) => {
      const seconds = (performance.now() - started) / 1000;
      const outcomes = [...counts].sort((a, b) => b[1] - a[1]).map(([code, count]) => `${code} ${count}`);
      console.log(
        `${what}: ${INPUTS} inputs from seed ${SEED} in ${seconds.toFixed(1)} s (${Math.round(INPUTS / seconds)}/s): ${outcomes.join(", ")}`,
      );
    },
  };
}

async function parse(file: FuzzFile): Promise<SafetensorsHeader> {
  return readHeader(
    {
      byteLength: file.fileByteLength,
      read: async (begin, end) => {
        // What is asked for may be allocated: never more than the cap, never past the end.
        must(end - begin <= MAX_HEADER_BYTE_LENGTH && end <= file.fileByteLength, "a read past the cap or the end");
        const whole = Buffer.concat([file.prefix, file.json]);
        const bytes = new Uint8Array(Math.min(end - begin, 1 << 20));
        bytes.set(whole.subarray(begin, Math.min(end, whole.length)));
        return bytes;
      },
    },
    "fuzz.safetensors",
  );
}

/** `expect` a million times over would take longer than what it looks at. */
function must(holds: boolean, what: string): void {
  if (!holds) throw new Error(`expected otherwise: ${what}`);
}

/** What the format says of any header that was taken. */
function checkHeader(header: SafetensorsHeader, file: FuzzFile): void {
  let position = header.dataByteOffset;
  const names = new Set<string>();
  // JSON.parse agrees on everything: it keeps the last of two equal keys and loses none here.
  const parsed = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(file.json));
  for (const { name, dtype, shape, byteOffset, byteLength } of header.tensors) {
    must(byteOffset === position, "contiguous offsets");
    const elements = shape.reduce((product, dimension) => product * dimension, 1);
    must(byteLength * 8 === elements * bitsPerElement(dtype)!, "size by shape and dtype");
    must(!names.has(name), "unique names");
    names.add(name);
    position += byteLength;
    if (name === "__proto__") continue;
    const begin = byteOffset - header.dataByteOffset;
    const expected = JSON.stringify([dtype, shape, [begin, begin + byteLength]]);
    const said = parsed[name];
    must(JSON.stringify([said.dtype, said.shape, said.data_offsets]) === expected, "what JSON.parse reads");
  }
  must(position === file.fileByteLength, "the data ends where the file ends");
  if (names.has("__proto__")) return;
  const keys = Object.keys(parsed).filter((key) => key !== "__metadata__");
  must(keys.length === names.size && keys.every((key) => names.has(key)), "the keys of JSON.parse");
}

function checkIndex(index: ShardIndex, json: Uint8Array): void {
  const parsed = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(json));
  for (const [name, file] of index.weightMap) {
    must(/^[^./\\:][^/\\:]*\.safetensors$/.test(file), "a plain file name");
    if (name !== "__proto__") must(parsed.weight_map[name] === file, "what JSON.parse reads");
  }
  if (!index.weightMap.has("__proto__"))
    must(Object.keys(parsed.weight_map).length === index.weightMap.size, "the keys of JSON.parse");
}

describe(`structure-aware mutations, ${INPUTS} of each`, () => {
  test(
    "headers: a coded refusal or a correct result",
    async () => {
      const { add, print, counts } = tally();
      const started = performance.now();
      for (let i = 0; i < INPUTS; i++) {
        const file = fuzzHeader(new Chooser(SEED * 1_000_003 + i));
        const began = performance.now();
        try {
          const header = await parse(file);
          checkHeader(header, file);
          add("taken");
        } catch (error) {
          if (!isPhysariumError(error, "DONOR_HEADER_"))
            throw new Error(`input ${i}: ${new TextDecoder().decode(file.json)}`, { cause: error });
          add(error.code);
        }
        if (performance.now() - began > MAX_INPUT_MS) throw new Error(`input ${i} took over ${MAX_INPUT_MS} ms`);
      }
      print("headers", started);
      // Mutations that are all refused at the door would test the door alone.
      expect(counts.get("taken") ?? 0).toBeGreaterThan(INPUTS / 20);
      expect(counts.size).toBeGreaterThan(9);
    },
    60_000 + INPUTS,
  );

  test(
    "indexes: a coded refusal or a correct result",
    () => {
      const { add, print, counts } = tally();
      const started = performance.now();
      for (let i = 0; i < INPUTS; i++) {
        const json = fuzzIndex(new Chooser(SEED * 1_000_003 + i));
        const began = performance.now();
        try {
          checkIndex(parseShardIndex(json, "fuzz.index.json"), json);
          add("taken");
        } catch (error) {
          if (!isPhysariumError(error, "DONOR_INDEX_"))
            throw new Error(`input ${i}: ${new TextDecoder().decode(json)}`, { cause: error });
          add(error.code);
        }
        if (performance.now() - began > MAX_INPUT_MS) throw new Error(`input ${i} took over ${MAX_INPUT_MS} ms`);
      }
      print("indexes", started);
      expect(counts.get("taken") ?? 0).toBeGreaterThan(INPUTS / 20);
      expect(counts.size).toBeGreaterThan(3);
    },
    60_000 + INPUTS,
  );
});
