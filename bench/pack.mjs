// Size and speed of the lossless pack beside what a user has today, in one run, on the same bytes.
//
//   node bench/pack.mjs [MiB a sample, default 64] [--quick: without the slow tools | --slow: with them on every
// sample]
//
// zstd -19 and xz take about a minute for 64 MiB each: without a flag they are run on the sample with 22.2 % zeros and
// on loam.
//
// Samples: Gaussian BF16 weights with the smallest set to zero, and the trained donor loam before and after surgery.
// Our own figures are for one thread, kernel, tables and checksum included. Speeds are bytes of weights by processor
// time (user + system), so that a busy machine does not count against anybody; command-line tools read from and write
// to files or /dev/null. Every packed sample is unpacked and compared.
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { cpus, loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { openDonor } from "../dist/checkpoint/donor.js";
import { BandDecoder } from "../dist/pack/band-decoder.js";
import { BandEncoder } from "../dist/pack/band-encoder.js";
import { MAX_BAND_ELEMENTS } from "../dist/pack/band-format.js";
import { codedBits, codeLengths } from "../dist/pack/byte-code.js";
import { measureWords } from "../dist/pack/statistics.js";
import { gaussianWords, seededRandom } from "./pack-samples.mjs";

const args = process.argv.slice(2);
const isSlowWanted = (title) => !args.includes("--quick") && (args.includes("--slow") || /22.2 %|loam/.test(title));
const mebibytes = Number(args.find((arg) => !arg.startsWith("--")) ?? 64);
const folder = mkdtempSync(join(tmpdir(), "physarium-bench-"));

const tools = [
  ["zstd -3", "zstd", ["-3", "-T1"], false],
  ["zstd -19", "zstd", ["-19", "-T1"], true],
  ["xz", "xz", ["-6", "-T1"], true],
].filter(([title, program]) => {
  const found = spawnSync(program, ["--version"]).status === 0;
  if (!found) console.log(`${title}: skipped, the command-line tool ${program} is not installed`);
  return found;
});

console.log(
  `${cpus()[0].model}, Node ${process.version}, load ${loadavg()[0].toFixed(1)}; samples of ${mebibytes} MiB\n`,
);
try {
  for (const [title, words] of await samples()) measure(title, words);
} finally {
  rmSync(folder, { recursive: true });
}

async function samples() {
  const count = mebibytes << 19;
  const list = [
    ["Gaussian, dense", 0],
    ["Gaussian, 22.2 % zeros", 0.2819],
    ["Gaussian, 50 % zeros", 0.6745],
    ["Gaussian, 90 % zeros", 1.6449],
  ].map(([title, cut]) => [title, gaussianWords("BF16", count, cut, seededRandom(1))]);
  list.splice(3, 0, ["Gaussian, 2:4 zeros", twoOfFour(gaussianWords("BF16", count, 0, seededRandom(1)))]);
  const operated = join(folder, "operated");
  const surgery = spawnSync(process.execPath, [
    "dist/cli/main.js",
    "surgery",
    "examples/donors/loam",
    operated,
    "--quiet",
  ]);
  if (surgery.status !== 0) throw new Error(`surgery failed: ${surgery.stderr}`);
  list.push(["loam (trained, 3.5 M weights)", await weightsOf("examples/donors/loam")]);
  list.push(["loam after surgery (22 %)", await weightsOf(operated)]);
  return list;
}

/** The two smallest of every four set to zero. */
function twoOfFour(raw) {
  const words = new Uint16Array(raw.buffer);
  for (let i = 0; i < words.length; i += 4) {
    const four = words.subarray(i, i + 4);
    const cut = [...four].map((word) => word & 0x7fff).sort((a, b) => a - b)[1];
    let left = 2;
    for (let k = 0; k < 4; k++) if (left > 0 && (four[k] & 0x7fff) <= cut && left--) four[k] = 0;
  }
  return raw;
}

/** All BF16 words of a model, one tensor behind the other. */
async function weightsOf(path) {
  const donor = await openDonor(path);
  const parts = donor.shards.flatMap((shard) => {
    const bytes = readFileSync(join(path, shard.file));
    return shard.tensors.map((tensor) => bytes.subarray(tensor.byteOffset, tensor.byteOffset + tensor.byteLength));
  });
  return new Uint8Array(Buffer.concat(parts));
}

function measure(title, raw) {
  const words = new Uint16Array(raw.buffer, raw.byteOffset, raw.byteLength / 2);
  const statistics = statisticsOf(raw);
  const percent = (bits) => `${((100 * bits) / (16 * words.length)).toFixed(2)} %`;
  const zeros = (100 * statistics.zeros) / words.length;
  console.log(`${title}: ${raw.byteLength} bytes, ${zeros.toFixed(2)} % zeros`);
  row("", "size", "pack GB/s", "unpack GB/s");
  row("entropy bound, zero-or-exponent a band", percent(statistics.boundBits));
  const ours = packAndUnpack(raw);
  row("physarium pack", percent(8 * ours.byteLength), ours.pack, ours.unpack);
  row("  one Huffman code a weight (estimate)", percent(statistics.singleCodeBits));
  row("  raw mask + Huffman exponents (estimate)", percent(statistics.rawMaskBits));
  const planes = planeBits(words);
  row("DFloat11-style (estimate)", percent(planes.exponent + 8 * words.length));
  row("ZipNN-style (estimate)", percent(planes.exponent + planes.rest));
  const file = join(folder, "sample");
  writeFileSync(file, raw);
  for (const [name, program, options, isSlow] of tools) {
    if (isSlow && !isSlowWanted(title)) continue;
    const packed = join(folder, "sample.packed");
    const pack = seconds(`${program} ${options.join(" ")} -q -k -c < ${file} > ${packed}`);
    const unpack = seconds(`${program} -d -q -c < ${packed} > /dev/null`);
    const rate = (time) => (raw.byteLength / 1e9 / time).toFixed(3);
    row(name, percent(8 * statSync(packed).size), rate(pack), rate(unpack));
  }
  console.log("");
}

/** Of every band, added up: the bound and the alternatives get tables a band, too. */
function statisticsOf(raw) {
  const sums = { zeros: 0, boundBits: 0, singleCodeBits: 0, rawMaskBits: 0 };
  for (let at = 0; at < raw.byteLength; at += 2 * MAX_BAND_ELEMENTS) {
    const band = measureWords("BF16", raw.subarray(at, at + 2 * MAX_BAND_ELEMENTS));
    for (const key of Object.keys(sums)) sums[key] += band[key];
  }
  return sums;
}

/**
 * Bits of one Huffman code for all exponents, and of one for all sign-and-mantissa bytes: what those two tools build
 * on.
 */
function planeBits(words) {
  const exponents = new Uint32Array(256);
  const rests = new Uint32Array(256);
  for (const word of words) {
    exponents[(word >> 7) & 255]++;
    rests[((word >> 8) & 0x80) | (word & 0x7f)]++;
  }
  return { exponent: codedBits(exponents, codeLengths(exponents, 15)), rest: codedBits(rests, codeLengths(rests, 15)) };
}

/** One thread, bands of the real size, checksums on both ways, as the commands do it; the best of five by processor time. */
function packAndUnpack(raw) {
  const bandBytes = 2 * MAX_BAND_ELEMENTS;
  const encoder = new BandEncoder(1, bandBytes);
  const decoder = new BandDecoder({ rooms: 1, roomBytes: bandBytes });
  const [from, to] = [encoder.inputRoom(0), encoder.outputRoom(0)];
  const { input, output } = decoder.room(0);
  let packTime = Number.POSITIVE_INFINITY;
  let unpackTime = Number.POSITIVE_INFINITY;
  let byteLength = 0;
  for (let round = 0; round < 5; round++) {
    const packed = [];
    packTime = Math.min(
      packTime,
      processorSeconds(() => {
        for (let at = 0; at < raw.byteLength; at += bandBytes) {
          const band = raw.subarray(at, at + bandBytes);
          from.set(band);
          const checksum = encoder.checksumAt(from.byteOffset, band.byteLength);
          const coded = encoder.encodeAt("BF16", from.byteOffset, band.byteLength / 2, to.byteOffset);
          packed.push({ bytes: coded === undefined ? band : to.slice(0, coded), checksum });
        }
      }),
    );
    unpackTime = Math.min(
      unpackTime,
      processorSeconds(() => {
        packed.forEach(({ bytes, checksum }, i) => {
          const rawByteLength = Math.min(bandBytes, raw.byteLength - i * bandBytes);
          input.set(bytes);
          const band = { byteLength: bytes.byteLength, padding: 0, rawByteLength, checksum, dtype: "BF16" };
          decoder.decodeBand(input.subarray(0, bytes.byteLength), output, { ...band, where: "bench" });
        });
      }),
    );
    byteLength = packed.reduce((total, { bytes }) => total + bytes.byteLength + 16, 0);
  }
  const rate = (time) => (raw.byteLength / 1e9 / time).toFixed(3);
  return { byteLength, pack: rate(packTime), unpack: rate(unpackTime) };
}

function processorSeconds(work) {
  const before = process.cpuUsage();
  work();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1e6;
}

/** User and system time of a shell command, as bash measures it. */
function seconds(command) {
  const { stderr, status } = spawnSync("bash", ["-c", `TIMEFORMAT='%U %S'; time ${command}`], { encoding: "utf8" });
  if (status !== 0) throw new Error(`${command}: ${stderr}`);
  const [user, system] = stderr.trim().split(/\s+/).slice(-2).map(Number);
  return user + system;
}

function row(name, size, pack = "", unpack = "") {
  console.log(
    `  ${name.padEnd(44)}${String(size).padStart(9)}${String(pack).padStart(12)}${String(unpack).padStart(14)}`,
  );
}
