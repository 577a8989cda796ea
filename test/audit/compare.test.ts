import fc from "fast-check";
import { expect, test } from "vitest";
import { loadKernelModule } from "../../dist/wasm.js";
import { randomNumbers } from "../donors.js";

type Compare = (donor: number, output: number, count: number, out: number) => number;
const memory = new WebAssembly.Memory({ initial: 8 });
const { compare16, compare32 } = new WebAssembly.Instance(loadKernelModule("audit"), { env: { memory } })
  .exports as Record<string, Compare>;

/** The readable loop the kernels are held to. */
function readable(donor: ArrayLike<number>, output: ArrayLike<number>, signBit: number) {
  const counts = { dead: 0, killed: 0, zeros: 0, wrong: 0 };
  for (let i = 0; i < donor.length; i++) {
    const wasZero = donor[i] === 0 || donor[i] === signBit;
    if (wasZero) counts.zeros++;
    if (output[i] === 0) {
      counts.dead++;
      if (!wasZero) counts.killed++;
    } else if (output[i] !== donor[i] || output[i] === signBit) counts.wrong++;
  }
  return counts;
}

test.each([
  ["16 bits", compare16, Uint16Array, 0x8000],
  ["32 bits", compare32, Uint32Array, 0x80000000],
] as const)("%s: every length, zeros, −0, changed weights", (_, compare, Patterns, signBit) => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 200 }), fc.nat(), (count, seed) => {
      const random = randomNumbers(seed);
      const [donorPtr, outputPtr, countsPtr] = [8192, 16_384, 4096];
      const donor = new Patterns(memory.buffer, donorPtr, count);
      const output = new Patterns(memory.buffer, outputPtr, count);
      const counts = new Uint32Array(memory.buffer, countsPtr, 4).fill(0);
      counts[3] = 0xa5a5a5a5;
      for (let i = 0; i < count; i++) {
        donor[i] = random() < 0.2 ? (random() < 0.5 ? 0 : signBit) : Math.floor(random() * 2 ** 32);
        const fate = random();
        output[i] = fate < 0.4 ? 0 : fate < 0.9 ? donor[i] : fate < 0.95 ? signBit : donor[i] ^ 1;
      }
      const expected = readable(donor, output, signBit);
      const wrong = compare(donorPtr, outputPtr, count, countsPtr);
      expect({ dead: counts[0], killed: counts[1], zeros: counts[2], wrong }).toEqual(expected);
      expect(counts[3]).toBe(0xa5a5a5a5);
    }),
    { numRuns: 500 },
  );
});
