// Bytes to prefix codes, four streams a block.

/**
 * Code the bytes of one block in four streams, one behind the other.
 *
 * codes    u32[256]: code bits, the first in bit 0, | length << 16
 * lengths  u16[4]: each stream's bytes
 * aside    room for one stream, and 8 bytes of scratch
 * dst      the streams, then up to 8 bytes of scratch
 * returns  bytes of all four
 */
export function encodeStreams(src: usize, count: u32, codes: usize, lengths: usize, aside: usize, dst: usize): u32 {
  const quarter = (count + 3) >> 2;
  let out = dst;
  for (let s: u32 = 0; s < 4; s += 2) {
    const begin = min<u32>(s * quarter, count);
    const middle = min<u32>((s + 1) * quarter, count);
    const end = min<u32>((s + 2) * quarter, count);
    encodeTwo(src + begin, src + middle, src + end, codes, out, aside);
    store<u16>(lengths + (s << 1), <u32>firstLength);
    store<u16>(lengths + (s << 1), <u32>secondLength, 2);
    memory.copy(out + firstLength, aside, secondLength);
    out += firstLength + secondLength;
  }
  return <u32>(out - dst);
}

let firstLength: usize = 0;
let secondLength: usize = 0;

/** Two streams side by side, because a code waits only for the one before it in its stream. */
function encodeTwo(at1: usize, middle: usize, end: usize, codes: usize, dst1: usize, dst2: usize): void {
  let at2 = middle;
  let bits1: u64 = 0;
  let held1: u64 = 0;
  let out1 = dst1;
  let bits2: u64 = 0;
  let held2: u64 = 0;
  let out2 = dst2;
  // Four codes of at most 12 bits beside at most 7 left over: 55 bits.
  while (at1 + 4 <= middle && at2 + 4 <= end) {
    const four1 = load<u32>(at1);
    const four2 = load<u32>(at2);
    at1 += 4;
    at2 += 4;
    const a1 = load<u32>(codes + ((<usize>(four1 & 255)) << 2));
    const a2 = load<u32>(codes + ((<usize>(four2 & 255)) << 2));
    const b1 = load<u32>(codes + ((<usize>((four1 >> 8) & 255)) << 2));
    const b2 = load<u32>(codes + ((<usize>((four2 >> 8) & 255)) << 2));
    bits1 |= (<u64>(a1 & 0xffff)) << held1;
    bits2 |= (<u64>(a2 & 0xffff)) << held2;
    held1 += <u64>(a1 >> 16);
    held2 += <u64>(a2 >> 16);
    const c1 = load<u32>(codes + ((<usize>((four1 >> 16) & 255)) << 2));
    const c2 = load<u32>(codes + ((<usize>((four2 >> 16) & 255)) << 2));
    bits1 |= (<u64>(b1 & 0xffff)) << held1;
    bits2 |= (<u64>(b2 & 0xffff)) << held2;
    held1 += <u64>(b1 >> 16);
    held2 += <u64>(b2 >> 16);
    const d1 = load<u32>(codes + ((<usize>(four1 >> 24)) << 2));
    const d2 = load<u32>(codes + ((<usize>(four2 >> 24)) << 2));
    bits1 |= (<u64>(c1 & 0xffff)) << held1;
    bits2 |= (<u64>(c2 & 0xffff)) << held2;
    held1 += <u64>(c1 >> 16);
    held2 += <u64>(c2 >> 16);
    bits1 |= (<u64>(d1 & 0xffff)) << held1;
    bits2 |= (<u64>(d2 & 0xffff)) << held2;
    held1 += <u64>(d1 >> 16);
    held2 += <u64>(d2 >> 16);
    store<u64>(out1, bits1);
    store<u64>(out2, bits2);
    out1 += <usize>(held1 >> 3);
    out2 += <usize>(held2 >> 3);
    bits1 >>= held1 & ~7;
    bits2 >>= held2 & ~7;
    held1 &= 7;
    held2 &= 7;
  }
  firstLength = encodeRest(at1, middle, codes, bits1, held1, out1) - dst1;
  secondLength = encodeRest(at2, end, codes, bits2, held2, out2) - dst2;
}

/** What is left of a stream, code by code; returns its end. */
function encodeRest(at: usize, end: usize, codes: usize, bits: u64, held: u64, out: usize): usize {
  while (at < end) {
    const code = load<u32>(codes + ((<usize>load<u8>(at)) << 2));
    at++;
    bits |= (<u64>(code & 0xffff)) << held;
    held += <u64>(code >> 16);
    store<u64>(out, bits);
    out += <usize>(held >> 3);
    bits >>= held & ~7;
    held &= 7;
  }
  return out + <usize>(held > 0);
}
