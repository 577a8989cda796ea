import { expect, test } from "vitest";
import { GAP_BYTES, TubeArena } from "../../dist/methods/stages/tube-arena.js";
import { randomSource } from "./synthetic.js";

const { gauss, uniform } = randomSource(77);
const numbers = (count: number) => Float32Array.from({ length: count }, gauss);
const mask = (count: number) => Uint8Array.from({ length: count }, () => (uniform() < 0.6 ? 1 : 0));

/**
 * All arrays of a block in an arena whose gaps are filled with a pattern; `check` fails where a kernel wrote outside.
 */
function block(rows: number, cols: number) {
  const size = rows * cols;
  const arena = new TubeArena();
  arena.reserve(size * 21 + rows * 40, 11);
  const arrays = {
    drive: arena.floats(size),
    flow: arena.floats(size),
    pressure: arena.floats(size),
    direction: arena.floats(size),
    product: arena.floats(size),
    alive: arena.bytes(size),
    sums: arena.doubles(rows),
    more: arena.doubles(rows),
    loads: arena.doubles(rows),
  };
  const memory = new Uint8Array(arrays.drive.buffer);
  const parts = Object.values(arrays);
  const inside = new Uint8Array(memory.length);
  for (const { byteOffset, byteLength } of parts) inside.fill(1, byteOffset, byteOffset + byteLength);
  for (let at = 4096; at < memory.length; at++) if (inside[at] === 0) memory[at] = 0xa5;
  for (const { byteOffset, byteLength } of parts) {
    expect(
      inside.subarray(byteOffset + byteLength, byteOffset + byteLength + GAP_BYTES / 2).every((bit) => bit === 0),
    ).toBe(true);
  }
  for (const name of ["drive", "flow", "pressure", "direction", "product"] as const) arrays[name].set(numbers(size));
  arrays.alive.set(mask(size));
  const check = () => {
    for (let at = 4096; at < memory.length; at++) {
      if (inside[at] === 0 && memory[at] !== 0xa5)
        throw new Error(`a kernel wrote at byte ${at}, outside of its arrays`);
    }
  };
  return { ...arrays, kernel: arena.kernel, check };
}

const close = (found: number, expected: number) =>
  expect(Math.abs(found - expected), `${found}, expected ${expected}`).toBeLessThan(1e-5 * (1 + Math.abs(expected)));

test.each(Array.from({ length: 40 }, (_, at) => at + 1))("every kernel against plain loops, %d columns", (cols) => {
  const rows = 3;
  const b = block(rows, cols);
  const { kernel } = b;
  const p = (array: { byteOffset: number }) => array.byteOffset;
  const each = (row: number) => Array.from({ length: cols }, (_, col) => row * cols + col);

  kernel.rowLosses(rows, cols, p(b.drive), p(b.flow), p(b.pressure), p(b.sums));
  for (let row = 0; row < rows; row++) {
    close(
      b.sums[row],
      each(row).reduce((sum, at) => sum + (b.drive[at] - b.flow[at]) * b.pressure[at], 0),
    );
  }

  kernel.healBegin(rows, cols, p(b.pressure), p(b.alive), p(b.direction), p(b.sums));
  for (let row = 0; row < rows; row++) {
    for (const at of each(row)) expect(b.direction[at]).toBe(b.alive[at] === 1 ? b.pressure[at] : 0);
    close(
      b.sums[row],
      each(row).reduce((sum, at) => sum + b.direction[at] ** 2, 0),
    );
  }

  const before = { flow: b.flow.slice(), pressure: b.pressure.slice(), direction: b.direction.slice() };
  const norms = b.sums.slice();
  b.more.fill(0);
  // The second row is under its floor and must stay as it is.
  b.more[1] = Number.POSITIVE_INFINITY;
  // A product that makes the curvature positive.
  b.product.forEach((_, at) => {
    b.product[at] = 2 * b.direction[at] + 0.01;
  });
  kernel.healStep(rows, cols, p(b.flow), p(b.pressure), p(b.alive), p(b.direction), p(b.product), p(b.sums), p(b.more));
  for (let row = 0; row < rows; row++) {
    const curvature = each(row).reduce((sum, at) => sum + before.direction[at] * b.product[at], 0);
    const length = row === 1 || !(curvature > 0) ? 0 : norms[row] / curvature;
    let norm = 0;
    for (const at of each(row)) {
      close(b.flow[at], before.flow[at] + length * before.direction[at]);
      close(b.pressure[at], before.pressure[at] - length * b.product[at]);
      if (b.alive[at] === 1) norm += b.pressure[at] ** 2;
    }
    if (length === 0) continue;
    close(b.sums[row], norm);
    for (const at of each(row)) {
      const next = b.pressure[at] + (norm / norms[row]) * before.direction[at];
      close(b.direction[at], b.alive[at] === 1 ? next : 0);
    }
  }

  b.loads.set([0.3, 0.01, 1]);
  b.flow[0] = 1e-20;
  kernel.flowDirection(
    rows,
    cols,
    p(b.flow),
    p(b.pressure),
    p(b.direction),
    p(b.loads),
    0.5,
    1e-15,
    p(b.sums),
    p(b.more),
  );
  for (let row = 0; row < rows; row++) {
    const lambda = b.loads[row] * 0.5;
    let gain = 0;
    let stiffness = 0;
    for (const at of each(row)) {
      const width = Math.abs(b.flow[at]);
      const residual = width < 1e-15 ? 0 : width * b.pressure[at] - lambda * Math.sign(b.flow[at]);
      const step = residual / (width * width + lambda);
      gain += residual * step;
      stiffness += lambda * step * step;
      close(b.direction[at], width * step);
    }
    close(b.sums[row], gain);
    close(b.more[row], stiffness);
  }

  const then = { flow: b.flow.slice(), pressure: b.pressure.slice() };
  kernel.flowStep(rows, cols, p(b.flow), p(b.pressure), p(b.direction), p(b.product), p(b.sums), p(b.more));
  for (let row = 0; row < rows; row++) {
    const curvature = each(row).reduce((sum, at) => sum + b.direction[at] * b.product[at], b.more[row]);
    const length = curvature > 0 ? b.sums[row] / curvature : 0;
    // Where the curvature is a small difference of large numbers its rounding shows in the length.
    const tolerance = 1e-4 * (1 + Math.abs(length));
    for (const at of each(row)) {
      expect(Math.abs(b.flow[at] - then.flow[at] - length * b.direction[at])).toBeLessThan(tolerance * 10);
      expect(Math.abs(b.pressure[at] - then.pressure[at] + length * b.product[at])).toBeLessThan(tolerance * 10);
    }
  }
  b.check();
});
