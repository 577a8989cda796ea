import { createXXHash64 } from "hash-wasm";
import { describe, expect, it } from "vitest";
import { BandDecoder } from "../../dist/pack/band-decoder.js";
import { BandEncoder } from "../../dist/pack/band-encoder.js";
import { CodedRoom } from "../../dist/pack/coded-room.js";
import { PackedPlaces } from "../../dist/pack/packed-places.js";
import { encodeBandReference } from "../../dist/pack/reference.js";
import type { FloatDtype } from "../../src/safetensors/dtypes.js";
import { gaussianBand, seededRandom, wildBand } from "./random-bands.js";

const random = seededRandom(7);

describe("the kernels' checksum", () => {
  it("is xxHash64 at every length around its lanes, and of megabytes, wherever the bytes lie", async () => {
    const hasher = await createXXHash64();
    const encoder = new BandEncoder();
    const lengths = [...Array(200).keys(), 4095, 65_537, (1 << 21) + 13];
    for (const length of lengths) {
      const bytes = Uint8Array.from({ length }, (_, i) => Math.floor(random() * 256) ^ i);
      const at = encoder.input(length + 3).byteOffset + (length % 4);
      encoder.input(length + 3).set(bytes, length % 4);
      const spec = BigInt(`0x${hasher.init().update(bytes).digest("hex")}`);
      expect(encoder.checksumAt(at, length), `${length} bytes`).toBe(spec);
    }
  });
});

describe.each(["BF16", "F16", "F32"] as FloatDtype[])("bands of %s in one room", (dtype) => {
  const size = dtype === "F32" ? 4 : 2;
  /** Scaled, so that windows of exponents change from band to band; the last has strays on both sides. */
  const bands = [
    gaussianBand(dtype, 5001, 0, random),
    wildBand(dtype, 777, random),
    gaussianBand(dtype, 3, 0.3, random),
    gaussianBand(dtype, 70_001, 0.7, random).map((byte, i) => (i % size === size - 1 ? byte ^ 8 : byte)),
    gaussianBand(dtype, 9000, 0.3, random).map((byte, i) => (i % (500 * size) < size ? 255 - byte : byte)),
    new Uint8Array(size * 40),
  ];

  it("are coded as the reference codes each alone, over their own raw bytes, and come back", () => {
    const total = bands.reduce((sum, band) => sum + band.byteLength, 0);
    const encoder = new BandEncoder(2, total);
    const input = encoder.inputRoom(1);
    input.set(Buffer.concat(bands));
    const room = encoder.outputRoom(1);
    let from = input.byteOffset;
    let end = 0;
    const packed: Uint8Array[] = [];
    for (const band of bands) {
      const elements = band.byteLength / size;
      const byteLength = encoder.encodeAt(dtype, from, elements, room.byteOffset + end);
      const spec = encodeBandReference(dtype, band);
      if (byteLength === undefined) {
        expect(spec.byteLength).toBeGreaterThanOrEqual(band.byteLength);
        packed.push(band);
        room.set(band, end);
      } else {
        expect(Buffer.compare(room.subarray(end, end + byteLength), spec)).toBe(0);
        packed.push(spec);
      }
      end += byteLength ?? band.byteLength;
      from += band.byteLength;
    }
    expect(encoder.strayWrite()).toBeUndefined();

    const decoder = new BandDecoder({ rooms: 2, roomBytes: total });
    const { input: coded, output } = decoder.room(1);
    coded.set(Buffer.concat(packed), 5);
    let at = 5;
    let to = 0;
    bands.forEach((band, i) => {
      const raw = output.subarray(to);
      const checksum = encoder.checksumAt(copyInto(encoder, band), band.byteLength);
      const facts = { byteLength: packed[i].byteLength, padding: 0, rawByteLength: band.byteLength, checksum, dtype };
      decoder.decodeBand(coded.subarray(at, at + packed[i].byteLength), raw, { ...facts, where: `band ${i}` });
      at += packed[i].byteLength;
      to += band.byteLength;
    });
    expect(Buffer.compare(output.subarray(0, to), Buffer.concat(bands))).toBe(0);
    expect(decoder.strayWrite()).toBeUndefined();
  });
});

function copyInto(encoder: BandEncoder, bytes: Uint8Array): number {
  const input = encoder.inputRoom(0);
  input.set(bytes);
  return input.byteOffset;
}

describe("a job's coded bands", () => {
  it("lie at any place as if they had been written there one by one, each tensor padded to 8", () => {
    for (let round = 0; round < 300; round++) {
      const room = new CodedRoom(new Uint8Array(20_000).fill(0xee));
      const place = 1 + Math.floor(random() * 9000);
      const expected: number[] = [];
      for (let band = 0; band < 1 + (round % 5); band++) {
        const bytes = Uint8Array.from({ length: Math.floor(random() * 700) }, () => 1 + Math.floor(random() * 255));
        const isLast = random() < 0.5;
        room.bytes.set(bytes, room.end);
        room.add(bytes.byteLength, isLast);
        expected.push(...bytes);
        while (isLast && (place + expected.length) % 8 !== 0) expected.push(0);
      }
      const placed = room.placedAt(place);
      expect(Buffer.compare(placed, Uint8Array.from(expected))).toBe(0);
      expect(placed.byteOffset % 4096).toBe(place % 4096);
    }
  });
});

describe("places that jobs hand on", () => {
  it("come from the job before, whoever asks first", async () => {
    const places = PackedPlaces.begin(3, 100);
    const last = places.of(3);
    const second = new PackedPlaces(places.shared).of(1);
    places.tell(1, 250);
    expect(await second).toBe(250);
    places.tell(2, 260);
    places.tell(3, 300);
    expect(await last).toBe(300);
    expect(await places.of(0)).toBe(100);
  });

  it("fail for all that come behind a failed job, and not where one is known", async () => {
    const places = PackedPlaces.begin(2, 8);
    const behind = places.of(1);
    places.fail(1);
    await expect(behind).rejects.toMatchObject({ code: "INTERNAL" });
    places.fail(0);
    expect(await places.of(0)).toBe(8);
  });
});
