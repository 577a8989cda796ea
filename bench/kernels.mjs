// How fast are the two passes of v1, beside copying the same memory and beside iterating every weight?
//   node bench/kernels.mjs
// Checks first that kernel and reference agree on the bench's own data, then times: processor time of one thread.
import { BandKernel } from "../dist/flow/kernels.js";
import { weightPatterns } from "../dist/flow/magnitudes.js";
import { DEFAULT_PARAMS } from "../dist/flow/params.js";
import { deadInMatrix } from "../dist/flow/reference.js";
import { runResidentBand } from "../dist/flow/resident-band.js";
import { loadKernelModule } from "../dist/wasm.js";
import { median, printMachine, printTable } from "./machine.mjs";

printMachine();
const ROWS = 256;
const COLS = 18_944; // a band of a 7B model's down projection
const ROUNDS = 21;
const module = loadKernelModule("surgery");
const rows = [["dtype, flow", "G weights/s", "GB/s", "memcpy GB/s", "of memcpy", "× iterating"]];

for (const [dtype, bytes] of [
  ["BF16", 2],
  ["F16", 2],
  ["F32", 4],
]) {
  const weights = gaussianWeights(dtype, ROWS * COLS);
  for (const flow of ["magnitude", "balanced"]) {
    const kernel = new BandKernel(
      module,
      { slotCount: 1, slotByteLength: weights.byteLength, maxCols: COLS },
      DEFAULT_PARAMS,
      flow,
    );
    const operate = () => {
      const band = { slot: 0, byteOffset: 0, dtype, rows: ROWS, cols: COLS, turned: false };
      runResidentBand(
        kernel,
        DEFAULT_PARAMS.blockSize,
        band,
        () => {},
        () => {},
      );
    };
    const iterating = check(dtype, flow, weights, kernel, operate);
    const times = [];
    const copies = [];
    for (let round = 0; round < ROUNDS; round++) {
      copies.push(processorMs(() => kernel.slot(0).set(weights)));
      times.push(processorMs(operate));
    }
    const perSecond = (ROWS * COLS) / (median(times) / 1000);
    const copyRate = weights.byteLength / (median(copies) / 1000);
    rows.push([
      `${dtype} ${flow}`,
      (perSecond / 1e9).toFixed(2),
      ((perSecond * bytes) / 1e9).toFixed(2),
      (copyRate / 1e9).toFixed(2),
      ((perSecond * bytes) / copyRate).toFixed(2),
      (perSecond / iterating).toFixed(0),
    ]);
    if (kernel.wholeTiles > 0)
      console.log(`${dtype} ${flow}: ${kernel.boundedTiles} of ${kernel.wholeTiles} tiles decided by the bound`);
  }
}
printTable(rows);
console.log(
  `band of ${ROWS} × ${COLS}, median of ${ROUNDS} rounds of processor time; iterating: the readable reference over one tile row, ${DEFAULT_PARAMS.nIter} steps a weight`,
);

/** Processor time: what other programs take of this core is not counted. */
function processorMs(run) {
  const before = process.cpuUsage();
  run();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1000;
}

/** Kernel = reference on the first tiles; returns the weights a second that iterating every weight reaches. */
function check(dtype, flow, weights, kernel, operate) {
  const bytes = weights.byteLength / (ROWS * COLS);
  kernel.slot(0).set(weights);
  operate();
  operate(); // warm, and idempotent on zeros
  kernel.slot(0).set(weights);
  operate();
  const cols = 1024;
  const narrow = new Uint8Array(ROWS * cols * bytes);
  for (let row = 0; row < ROWS; row++)
    narrow.set(weights.subarray(row * COLS * bytes, (row * COLS + cols) * bytes), row * cols * bytes);
  const start = performance.now();
  const dead = deadInMatrix(flow, weightPatterns(narrow, dtype), dtype, ROWS, cols, DEFAULT_PARAMS);
  const seconds = (performance.now() - start) / 1000;
  const after = weightPatterns(kernel.slot(0), dtype);
  for (let row = 0; row < ROWS; row++) {
    for (let col = 0; col < cols; col++) {
      if ((after[row * COLS + col] === 0) !== (dead[row * cols + col] === 1))
        throw new Error(`${dtype} ${flow}: kernel and reference disagree`);
    }
  }
  return (ROWS * cols) / seconds;
}

function gaussianWeights(dtype, count) {
  const values = Float32Array.from(
    { length: count },
    () => 0.02 * Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random()),
  );
  if (dtype === "F32") return new Uint8Array(values.buffer);
  const bits = new Uint32Array(values.buffer);
  // Halves by truncation: sign, exponent shifted from bias 127 to 15, ten bits of mantissa.
  const half = (b) => ((b >>> 16) & 0x8000) | Math.max(0, ((b & 0x7fffffff) - 0x38000000) >> 13);
  return new Uint8Array(Uint16Array.from(bits, dtype === "BF16" ? (b) => b >>> 16 : half).buffer);
}
