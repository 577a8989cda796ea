// The element-wise work of the activation flow, on whole blocks of rows: what stands between two matrix products.
// All matrices are f32 row-major (rows, cols) at any 4-byte aligned address; masks are u8 (1 living), sums f64, one a
// row.
// Sums run in four lanes of f32 by four columns, then in f64 by lane, then over the columns left: the same on every
// machine.
// spec: src/methods/stages/reference.ts; callers: src/methods/stages/tube-arena.ts

// @ts-ignore: decorator
@inline
function total(lanes: v128): f64 {
  return (
    (<f64>f32x4.extract_lane(lanes, 0) + <f64>f32x4.extract_lane(lanes, 1)) +
    (<f64>f32x4.extract_lane(lanes, 2) + <f64>f32x4.extract_lane(lanes, 3))
  );
}

/** All ones in the lanes of living tubes. */
// @ts-ignore: decorator
@inline
function living(alive: usize): v128 {
  const bytes = i16x8.extend_low_i8x16_u(v128.load32_zero(alive));
  return i32x4.ne(i32x4.extend_low_i16x8_u(bytes), f32x4.splat(0));
}

/** direction ← pressure where living, else 0; norms ← |direction|² by row. */
export function healBegin(rows: i32, cols: i32, pressure: usize, alive: usize, direction: usize, norms: usize): void {
  for (let row = 0; row < rows; row++) {
    let lanes = f32x4.splat(0);
    let sum: f64 = 0;
    const end = pressure + ((<usize>cols) << 2);
    const body = pressure + ((<usize>(cols & ~3)) << 2);
    for (; pressure < body; pressure += 16, direction += 16, alive += 4) {
      const r = v128.and(v128.load(pressure), living(alive));
      v128.store(direction, r);
      lanes = f32x4.add(lanes, f32x4.mul(r, r));
    }
    for (; pressure < end; pressure += 4, direction += 4, alive++) {
      const r: f32 = load<u8>(alive) != 0 ? load<f32>(pressure) : 0;
      store<f32>(direction, r);
      sum += <f64>r * <f64>r;
    }
    store<f64>(norms + ((<usize>row) << 3), total(lanes) + sum);
  }
}

/**
 * One conjugate-gradient step, product = direction · C being known. Rows whose norm is not above their floor are left
 * alone.
 */
export function healStep(
  rows: i32,
  cols: i32,
  flow: usize,
  pressure: usize,
  alive: usize,
  direction: usize,
  product: usize,
  norms: usize,
  floors: usize,
): void {
  const bytes = (<usize>cols) << 2;
  const bodyBytes = (<usize>(cols & ~3)) << 2;
  for (let row = 0; row < rows; row++, flow += bytes, pressure += bytes, direction += bytes, product += bytes, alive += cols) {
    const before = load<f64>(norms + ((<usize>row) << 3));
    if (!(before > load<f64>(floors + ((<usize>row) << 3)))) continue;
    let lanes = f32x4.splat(0);
    let sum: f64 = 0;
    let at: usize = 0;
    for (; at < bodyBytes; at += 16) {
      lanes = f32x4.add(lanes, f32x4.mul(v128.load(direction + at), v128.load(product + at)));
    }
    for (; at < bytes; at += 4) sum += <f64>load<f32>(direction + at) * <f64>load<f32>(product + at);
    const curvature = total(lanes) + sum;
    if (!(curvature > 0)) {
      store<f64>(norms + ((<usize>row) << 3), 0);
      continue;
    }
    const length = <f32>(before / curvature);
    const lengths = f32x4.splat(length);
    lanes = f32x4.splat(0);
    sum = 0;
    for (at = 0; at < bodyBytes; at += 16) {
      v128.store(flow + at, f32x4.add(v128.load(flow + at), f32x4.mul(lengths, v128.load(direction + at))));
      const left = f32x4.sub(v128.load(pressure + at), f32x4.mul(lengths, v128.load(product + at)));
      v128.store(pressure + at, left);
      const r = v128.and(left, living(alive + (at >> 2)));
      lanes = f32x4.add(lanes, f32x4.mul(r, r));
    }
    for (; at < bytes; at += 4) {
      store<f32>(flow + at, load<f32>(flow + at) + length * load<f32>(direction + at));
      const left = load<f32>(pressure + at) - length * load<f32>(product + at);
      store<f32>(pressure + at, left);
      if (load<u8>(alive + (at >> 2)) != 0) sum += <f64>left * <f64>left;
    }
    const after = total(lanes) + sum;
    store<f64>(norms + ((<usize>row) << 3), after);
    const turn = <f32>(after / before);
    const turns = f32x4.splat(turn);
    for (at = 0; at < bodyBytes; at += 16) {
      const next = f32x4.add(v128.load(pressure + at), f32x4.mul(turns, v128.load(direction + at)));
      v128.store(direction + at, v128.and(next, living(alive + (at >> 2))));
    }
    for (; at < bytes; at += 4) {
      const next = load<f32>(pressure + at) + turn * load<f32>(direction + at);
      store<f32>(direction + at, load<u8>(alive + (at >> 2)) != 0 ? next : 0);
    }
  }
}

/**
 * The direction of one step of the flow at β = 2, where √D = |Q| and z = sign Q: r = |Q|g − λ sign Q, step r/(Q² + λ),
 * direction |Q|·step.
 * gains ← r·step, stiffnesses ← λ|step|² by row. Tubes under `starved` take no part.
 */
export function flowDirection(
  rows: i32,
  cols: i32,
  flow: usize,
  pressure: usize,
  direction: usize,
  loads: usize,
  ramp: f64,
  starved: f32,
  gains: usize,
  stiffnesses: usize,
): void {
  const bytes = (<usize>cols) << 2;
  const bodyBytes = (<usize>(cols & ~3)) << 2;
  const floor = f32x4.splat(starved);
  const signBit = i32x4.splat(<i32>0x80000000);
  for (let row = 0; row < rows; row++, flow += bytes, pressure += bytes, direction += bytes) {
    const lambda = <f32>(load<f64>(loads + ((<usize>row) << 3)) * ramp);
    const lambdas = f32x4.splat(lambda);
    let gainLanes = f32x4.splat(0);
    let stepLanes = f32x4.splat(0);
    let gain: f64 = 0;
    let norm: f64 = 0;
    let at: usize = 0;
    for (; at < bodyBytes; at += 16) {
      const q = v128.load(flow + at);
      const width = f32x4.abs(q);
      const open = f32x4.ge(width, floor);
      const pull = v128.or(lambdas, v128.and(q, signBit));
      const residual = v128.and(f32x4.sub(f32x4.mul(width, v128.load(pressure + at)), pull), open);
      const step = v128.and(f32x4.div(residual, f32x4.add(f32x4.mul(width, width), lambdas)), open);
      gainLanes = f32x4.add(gainLanes, f32x4.mul(residual, step));
      stepLanes = f32x4.add(stepLanes, f32x4.mul(step, step));
      v128.store(direction + at, f32x4.mul(width, step));
    }
    for (; at < bytes; at += 4) {
      const q = load<f32>(flow + at);
      const width = abs(q);
      if (!(width >= starved)) {
        store<f32>(direction + at, 0);
        continue;
      }
      const residual = width * load<f32>(pressure + at) - (q < 0 ? -lambda : lambda);
      const step = residual / (width * width + lambda);
      gain += <f64>residual * <f64>step;
      norm += <f64>step * <f64>step;
      store<f32>(direction + at, width * step);
    }
    store<f64>(gains + ((<usize>row) << 3), total(gainLanes) + gain);
    store<f64>(stiffnesses + ((<usize>row) << 3), <f64>lambda * (total(stepLanes) + norm));
  }
}

/** Walk along the direction as far as lowers the quadratic most: gain / (direction·product + stiffness). */
export function flowStep(
  rows: i32,
  cols: i32,
  flow: usize,
  pressure: usize,
  direction: usize,
  product: usize,
  gains: usize,
  stiffnesses: usize,
): void {
  const bytes = (<usize>cols) << 2;
  const bodyBytes = (<usize>(cols & ~3)) << 2;
  for (let row = 0; row < rows; row++, flow += bytes, pressure += bytes, direction += bytes, product += bytes) {
    let lanes = f32x4.splat(0);
    let sum: f64 = 0;
    let at: usize = 0;
    for (; at < bodyBytes; at += 16) {
      lanes = f32x4.add(lanes, f32x4.mul(v128.load(direction + at), v128.load(product + at)));
    }
    for (; at < bytes; at += 4) sum += <f64>load<f32>(direction + at) * <f64>load<f32>(product + at);
    const curvature = total(lanes) + sum + load<f64>(stiffnesses + ((<usize>row) << 3));
    if (!(curvature > 0)) continue;
    const length = <f32>(load<f64>(gains + ((<usize>row) << 3)) / curvature);
    const lengths = f32x4.splat(length);
    for (at = 0; at < bodyBytes; at += 16) {
      v128.store(flow + at, f32x4.add(v128.load(flow + at), f32x4.mul(lengths, v128.load(direction + at))));
      v128.store(pressure + at, f32x4.sub(v128.load(pressure + at), f32x4.mul(lengths, v128.load(product + at))));
    }
    for (; at < bytes; at += 4) {
      store<f32>(flow + at, load<f32>(flow + at) + length * load<f32>(direction + at));
      store<f32>(pressure + at, load<f32>(pressure + at) - length * load<f32>(product + at));
    }
  }
}

/** losses ← (drive − flow)·pressure by row. */
export function rowLosses(rows: i32, cols: i32, drive: usize, flow: usize, pressure: usize, losses: usize): void {
  const bytes = (<usize>cols) << 2;
  const bodyBytes = (<usize>(cols & ~3)) << 2;
  for (let row = 0; row < rows; row++, drive += bytes, flow += bytes, pressure += bytes) {
    let lanes = f32x4.splat(0);
    let sum: f64 = 0;
    let at: usize = 0;
    for (; at < bodyBytes; at += 16) {
      const lack = f32x4.sub(v128.load(drive + at), v128.load(flow + at));
      lanes = f32x4.add(lanes, f32x4.mul(lack, v128.load(pressure + at)));
    }
    for (; at < bytes; at += 4) {
      sum += <f64>(load<f32>(drive + at) - load<f32>(flow + at)) * <f64>load<f32>(pressure + at);
    }
    store<f64>(losses + ((<usize>row) << 3), total(lanes) + sum);
  }
}
