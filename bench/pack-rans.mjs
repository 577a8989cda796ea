// Would rANS be the better coder? Four interleaved rANS streams over the survivors' exponents (16 symbols, 12-bit
// probabilities, 32-bit states that take 16 bits at a time) against the whole decoder of the pack, which Huffman codes
// them in pairs. Only what decides is built here.
//
//   node bench/pack-rans.mjs
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import asc from "assemblyscript/asc";
import { BandDecoder } from "../dist/pack/band-decoder.js";
import { BandEncoder } from "../dist/pack/band-encoder.js";
import { codedBits, codeLengths, entropyBits, nibbleTable, rankExponents } from "../dist/pack/byte-code.js";
import { gaussianWords, seededRandom } from "./pack-samples.mjs";

const SOURCE = `
// table u32[4096]: symbol | frequency << 4 | (slot - start) << 17
export function decode(src: usize, table: usize, dst: usize, count: u32): void {
  let a = load<u32>(src), b = load<u32>(src, 4), c = load<u32>(src, 8), d = load<u32>(src, 12);
  src += 16;
  for (let i: u32 = 0; i < count; i += 4) {
    const ae = load<u32>(table + ((a & 4095) << 2)), be = load<u32>(table + ((b & 4095) << 2));
    const ce = load<u32>(table + ((c & 4095) << 2)), de = load<u32>(table + ((d & 4095) << 2));
    store<u32>(dst + i, (ae & 15) | ((be & 15) << 8) | ((ce & 15) << 16) | ((de & 15) << 24));
    a = ((ae >> 4) & 8191) * (a >> 12) + (ae >> 17);
    b = ((be >> 4) & 8191) * (b >> 12) + (be >> 17);
    c = ((ce >> 4) & 8191) * (c >> 12) + (ce >> 17);
    d = ((de >> 4) & 8191) * (d >> 12) + (de >> 17);
    // Branch-free: load always, take where the state is small.
    let small = a < 65536; a = select<u32>((a << 16) | load<u16>(src), a, small); src += <usize>small << 1;
    small = b < 65536; b = select<u32>((b << 16) | load<u16>(src), b, small); src += <usize>small << 1;
    small = c < 65536; c = select<u32>((c << 16) | load<u16>(src), c, small); src += <usize>small << 1;
    small = d < 65536; d = select<u32>((d << 16) | load<u16>(src), d, small); src += <usize>small << 1;
  }
}`;

const COUNT = 1 << 20;
const rate = (seconds) => ((2 * COUNT) / 1e9 / seconds).toFixed(2);
const kernel = await compile();
for (const [title, cut] of [
  ["dense", 0],
  ["22.2 % zeros", 0.2819],
  ["50 % zeros", 0.6745],
])
  compare(title, cut);

async function compile() {
  writeFileSync("bench/rans.tmp.ts", SOURCE);
  const { error, stderr } = await asc.main(
    "bench/rans.tmp.ts --outFile bench/rans.tmp.wasm -O3 --noAssert --runtime stub --importMemory --use abort=".split(
      " ",
    ),
  );
  if (error) throw new Error(stderr.toString());
  const memory = new WebAssembly.Memory({ initial: 128 });
  const module = new WebAssembly.Module(new Uint8Array(readFileSync("bench/rans.tmp.wasm")));
  rmSync("bench/rans.tmp.ts");
  rmSync("bench/rans.tmp.wasm");
  return { memory, ...new WebAssembly.Instance(module, { env: { memory } }).exports };
}

function compare(title, cut) {
  const raw = gaussianWords("BF16", COUNT, cut, seededRandom(1));
  const words = new Uint16Array(raw.buffer).filter((word) => word !== 0);
  const symbols = words.subarray(0, words.length & ~3);
  const exponents = new Uint32Array(256);
  for (const word of symbols) exponents[(word >> 7) & 255]++;
  const nibbleOf = nibbleTable(rankExponents(exponents), exponents);
  const nibbles = Uint8Array.from(symbols, (word) => nibbleOf[(word >> 7) & 255]);
  const counts = new Uint32Array(16);
  const pairs = new Uint32Array(256);
  for (const nibble of nibbles) counts[nibble]++;
  for (let i = 0; i < nibbles.length; i += 2) pairs[nibbles[i] | (nibbles[i + 1] << 4)]++;

  const { bytes, table } = encode(nibbles, counts);
  const memory = new Uint8Array(kernel.memory.buffer);
  const [tableAt, srcAt, dstAt] = [65_536, 131_072, 2 << 20];
  new Uint32Array(kernel.memory.buffer, tableAt, 4096).set(table);
  memory.set(bytes, srcAt);
  const rans = best(() => kernel.decode(srcAt, tableAt, dstAt, nibbles.length));
  if (Buffer.compare(memory.subarray(dstAt, dstAt + nibbles.length), nibbles) !== 0) throw new Error("rANS is broken");

  const encoder = new BandEncoder();
  const decoder = new BandDecoder();
  encoder.input(raw.byteLength).set(raw);
  const packed = encoder.encode("BF16", COUNT);
  decoder.input(packed.byteLength).set(packed);
  const whole = best(() => decoder.decode("BF16", packed.byteLength, COUNT, "bench"));
  const bits = (value) => (value / nibbles.length).toFixed(3);
  console.log(
    `${title}: exponents alone: entropy ${bits(entropyBits(counts))}, rANS ${bits(8 * bytes.byteLength)}, Huffman of pairs ${bits(codedBits(pairs, codeLengths(pairs)))} bits a survivor\n` +
      `  rANS, exponents alone ${rate(rans)} GB/s of weights; whole band by the pack ${rate(whole)} GB/s`,
  );
}

/** Processor seconds, best of thirty. */
function best(work) {
  let least = Number.POSITIVE_INFINITY;
  for (let round = 0; round < 30; round++) {
    const before = process.cpuUsage();
    for (let i = 0; i < 4; i++) work();
    const { user, system } = process.cpuUsage(before);
    least = Math.min(least, (user + system) / 4e6);
  }
  return least;
}

/** Backwards, as rANS is; the decoder then reads forwards. */
function encode(nibbles, counts) {
  const frequencies = normalise(counts, nibbles.length);
  const starts = frequencies.map((_, symbol) => frequencies.slice(0, symbol).reduce((a, b) => a + b, 0));
  const table = new Uint32Array(4096);
  frequencies.forEach((frequency, symbol) => {
    for (let i = 0; i < frequency; i++) table[starts[symbol] + i] = symbol | (frequency << 4) | (i << 17);
  });
  const states = [65_536, 65_536, 65_536, 65_536];
  const shorts = [];
  for (let i = nibbles.length - 1; i >= 0; i--) {
    const symbol = nibbles[i];
    let x = states[i & 3];
    if (x >= frequencies[symbol] * 2 ** 20) {
      shorts.push(x & 0xffff);
      x >>>= 16;
    }
    states[i & 3] = Math.floor(x / frequencies[symbol]) * 4096 + (x % frequencies[symbol]) + starts[symbol];
  }
  const head = new Uint8Array(Uint32Array.from(states).buffer);
  return {
    bytes: new Uint8Array(Buffer.concat([head, new Uint8Array(Uint16Array.from(shorts.reverse()).buffer)])),
    table,
  };
}

/** Frequencies that add up to 4096, none of a used symbol zero. */
function normalise(counts, total) {
  const frequencies = Array.from(counts, (count) =>
    count === 0 ? 0 : Math.max(1, Math.round((4096 * count) / total)),
  );
  const largest = frequencies.indexOf(Math.max(...frequencies));
  frequencies[largest] += 4096 - frequencies.reduce((a, b) => a + b, 0);
  return frequencies;
}
