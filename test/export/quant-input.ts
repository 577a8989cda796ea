/**
 * Weights that every implementation can make again bit for bit: a linear congruential generator, sums of four draws
 * (close to normal), and per 256 weights another scale and pattern: plain, 22 % and 60 % zeros, one sign, one outlier,
 * all zero, all equal, tiny, large.
 */
export function quantInput(superBlocks: number): Float32Array {
  const out = new Float32Array(superBlocks * 256);
  let state = 12345n;
  const draw = (): number => {
    state = (state * 6364136223846793005n + 1442695040888963407n) & 0xffffffffffffffffn;
    return Number(state >> 40n);
  };
  for (let block = 0; block < superBlocks; block++) {
    const pattern = block % 9;
    const scale = pattern === 7 ? 1e-30 : pattern === 8 ? 64 : 0.02 * (1 + (block % 5));
    for (let i = 0; i < 256; i++) {
      const sum = draw() + draw() + draw() + draw();
      const normal = (sum - 2 * 16777216) / 16777216;
      const chance = draw() / 16777216;
      let value = normal * scale;
      if (pattern === 1 && chance < 0.22) value = 0;
      if (pattern === 2 && chance < 0.6) value = 0;
      if (pattern === 3) value = Math.abs(value);
      if (pattern === 4 && i === 77) value = scale * 40;
      if (pattern === 5) value = 0;
      if (pattern === 6) value = 0.03125;
      out[block * 256 + i] = value;
    }
  }
  return out;
}

/** Importance of the columns of a row, as every implementation can make it again: from 0 to some thousands. */
export function importanceInput(columns: number): Float32Array {
  const out = new Float32Array(columns);
  for (let col = 0; col < columns; col++) {
    const draw = (Math.imul(col + 1, 2654435761) >>> 0) / 4294967296;
    out[col] = col % 97 === 5 ? 0 : col % 31 === 7 ? 5000 * draw : 4 * draw * draw;
  }
  return out;
}
