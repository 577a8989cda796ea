// What verify counts: a donor's target beside what surgery wrote. Specification: test/audit/compare.test.ts holds it to
// a readable loop.

/** Counts of one comparison, as three u32 at `out`: zeros now, killed (non-zero before), already zero (±0 before). */
// @ts-ignore: decorator
@inline
function addCounts(out: usize, dead: u32, killed: u32, zeros: u32): void {
  store<u32>(out, load<u32>(out) + dead);
  store<u32>(out, load<u32>(out, 4) + killed, 4);
  store<u32>(out, load<u32>(out, 8) + zeros, 8);
}

// @ts-ignore: decorator
@inline
function sum16(lanes: v128): u32 {
  const v = i32x4.extadd_pairwise_i16x8_s(lanes);
  return i32x4.extract_lane(v, 0) + i32x4.extract_lane(v, 1) + i32x4.extract_lane(v, 2) + i32x4.extract_lane(v, 3);
}

/**
 * Compares `count` 16-bit weights: each must be the donor's bits, or +0. Adds to the counts at `out`; returns the
 * weights that
 * are neither (a −0 in the output counts as one: the dead are +0).
 */
export function compare16(donor: usize, output: usize, count: i32, out: usize): u32 {
  const zero = i16x8.splat(0);
  const magnitude = i16x8.splat(0x7fff);
  const negativeZero = i16x8.splat(-32768);
  let wrong: u32 = 0;
  let i = 0;
  while (i + 8 <= count) {
    const stop = min(count - 7, i + 8 * 32767);
    let deadLanes = zero;
    let killedLanes = zero;
    let zeroLanes = zero;
    let wrongLanes = zero;
    for (; i < stop; i += 8) {
      const d = v128.load(donor + i * 2);
      const o = v128.load(output + i * 2);
      const dead = i16x8.eq(o, zero);
      const wasZero = i16x8.eq(v128.and(d, magnitude), zero);
      const kept = v128.andnot(i16x8.eq(d, o), i16x8.eq(o, negativeZero));
      deadLanes = i16x8.sub(deadLanes, dead);
      killedLanes = i16x8.sub(killedLanes, v128.andnot(dead, wasZero));
      zeroLanes = i16x8.sub(zeroLanes, wasZero);
      wrongLanes = i16x8.sub(wrongLanes, v128.not(v128.or(dead, kept)));
    }
    addCounts(out, sum16(deadLanes), sum16(killedLanes), sum16(zeroLanes));
    wrong += sum16(wrongLanes);
  }
  for (; i < count; i++) {
    const d = <u32>load<u16>(donor + i * 2);
    const o = <u32>load<u16>(output + i * 2);
    const wasZero = (d & 0x7fff) == 0;
    addCounts(out, u32(o == 0), u32(o == 0 && !wasZero), u32(wasZero));
    if (o != 0 && (o != d || o == 0x8000)) wrong++;
  }
  return wrong;
}

/** `compare16` for F32. */
export function compare32(donor: usize, output: usize, count: i32, out: usize): u32 {
  const zero = i32x4.splat(0);
  const magnitude = i32x4.splat(0x7fffffff);
  const negativeZero = i32x4.splat(0x80000000);
  let deadLanes = zero;
  let killedLanes = zero;
  let zeroLanes = zero;
  let wrongLanes = zero;
  let i = 0;
  for (; i + 4 <= count; i += 4) {
    const d = v128.load(donor + i * 4);
    const o = v128.load(output + i * 4);
    const dead = i32x4.eq(o, zero);
    const wasZero = i32x4.eq(v128.and(d, magnitude), zero);
    const kept = v128.andnot(i32x4.eq(d, o), i32x4.eq(o, negativeZero));
    deadLanes = i32x4.sub(deadLanes, dead);
    killedLanes = i32x4.sub(killedLanes, v128.andnot(dead, wasZero));
    zeroLanes = i32x4.sub(zeroLanes, wasZero);
    wrongLanes = i32x4.sub(wrongLanes, v128.not(v128.or(dead, kept)));
  }
  addCounts(out, sum32(deadLanes), sum32(killedLanes), sum32(zeroLanes));
  let wrong = sum32(wrongLanes);
  for (; i < count; i++) {
    const d = load<u32>(donor + i * 4);
    const o = load<u32>(output + i * 4);
    const wasZero = (d & 0x7fffffff) == 0;
    addCounts(out, u32(o == 0), u32(o == 0 && !wasZero), u32(wasZero));
    if (o != 0 && (o != d || o == 0x80000000)) wrong++;
  }
  return wrong;
}

// @ts-ignore: decorator
@inline
function sum32(v: v128): u32 {
  return i32x4.extract_lane(v, 0) + i32x4.extract_lane(v, 1) + i32x4.extract_lane(v, 2) + i32x4.extract_lane(v, 3);
}
