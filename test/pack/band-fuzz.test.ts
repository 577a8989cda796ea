import { describe, expect, it } from "vitest";
import { isPhysariumError } from "../../dist/errors.js";
import { BandDecoder } from "../../dist/pack/band-decoder.js";
import { decodeBandReference, encodeBandReference } from "../../dist/pack/reference.js";
import type { FloatDtype } from "../../src/safetensors/dtypes.js";
import { gaussianBand, seededRandom, wildBand } from "./random-bands.js";

/**
 * bench/pack-fuzz.mjs runs the same mutations by the million; here a slice of them, each held against the reference
 * too.
 */
const MUTATIONS = Number(process.env.PHYSARIUM_FUZZ ?? 3000);

function mutate(packed: Uint8Array, random: () => number): Uint8Array {
  const pick = (below: number) => Math.floor(random() * below);
  const kind = random();
  if (kind < 0.08) return packed.slice(0, pick(packed.byteLength + 1));
  if (kind < 0.12) return Uint8Array.from([...packed, ...Array.from({ length: 1 + pick(9) }, () => pick(256))]);
  const bytes = packed.slice();
  const edits = 1 + pick(kind < 0.6 ? 1 : 6);
  for (let edit = 0; edit < edits; edit++) {
    // Half of the edits hit the head and the tables, where every byte steers the decoder.
    const at = random() < 0.5 ? pick(Math.min(176, bytes.byteLength)) : pick(bytes.byteLength);
    bytes[at] = random() < 0.5 ? bytes[at] ^ (1 << pick(8)) : [0, 1, 0xff, 0x7f, 0x80, pick(256)][pick(6)];
  }
  return bytes;
}

describe.each(["BF16", "F16", "F32"] as FloatDtype[])("a damaged band of %s", (dtype) => {
  it("is refused with a code or decoded to as many bytes, alike by kernel and reference, and nothing else is touched", () => {
    const random = seededRandom(0x5eed);
    const outcomes = new Map<string, number>();
    for (const elementCount of [1, 40, 333, 2000]) {
      const decoder = new BandDecoder({ maxElements: elementCount + 200 });
      const seeds = [
        encodeBandReference(dtype, gaussianBand(dtype, elementCount, 0.4, random)),
        encodeBandReference(dtype, wildBand(dtype, elementCount, random)),
        encodeBandReference(
          dtype,
          new Uint8Array(4 * elementCount).subarray(0, elementCount * (dtype === "F32" ? 4 : 2)),
        ),
      ];
      for (let i = 0; i < MUTATIONS / 4; i++) {
        const bytes = mutate(seeds[i % 3], random);
        const input = decoder.input(bytes.byteLength);
        const results = [0, 0xff].map((garbage) => {
          // What lies behind the input must not matter.
          decoder.input(bytes.byteLength + 64).fill(garbage);
          input.set(bytes);
          return outcome(() => decoder.decode(dtype, bytes.byteLength, elementCount, "fuzz"));
        });
        expect(results[1]).toBe(results[0]);
        expect(decoder.strayWrite()).toBeUndefined();
        expect(results[0]).toBe(outcome(() => decodeBandReference(dtype, bytes, elementCount, "fuzz")));
        const code = results[0].split(" ")[0];
        outcomes.set(code, (outcomes.get(code) ?? 0) + 1);
      }
    }
    // The mutations reach every refusal; a test that only ever saw one would prove little.
    for (const code of ["HEAD", "LENGTH", "TABLE", "STREAM", "COUNT"])
      expect(outcomes.get(`DONOR_PACK_${code}`)).toBeGreaterThan(0);
  });
});

function outcome(decode: () => Uint8Array): string {
  try {
    return `decoded ${Buffer.from(decode()).toString("base64")}`;
  } catch (error) {
    if (isPhysariumError(error, "DONOR_PACK_")) return error.code;
    throw error;
  }
}
