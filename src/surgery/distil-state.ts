import { join } from "node:path";
import type { DistilState } from "../calibration/distil.js";
import { attempt, closeWritten, type FileLayer, FileSource, writeFully } from "../checkpoint/file-layer.js";
import { exists } from "../output/place.js";
import { RECORD_FOLDER } from "../output/record-folder.js";

/**
 * `physarium/distil.state` of an unfinished output: a length (f64), a header of so many bytes of JSON, then of each
 * tensor a mask (a bit a weight, the first in the lowest), and of its living weights the masters, Adam's two means and
 * what they were at the best look, f32. Only the machine that wrote it reads it; it goes before the output gets its
 * name.
 */
const FILE = "distil.state";

interface Header {
  readonly made: number;
  readonly begun_at: number;
  readonly looked_at: number;
  readonly rate: number;
  readonly held_out_before: number;
  readonly best: { readonly step: number; readonly loss: number };
  readonly tensors: readonly {
    readonly name: string;
    readonly weights: number;
    readonly living: number;
    readonly size: number;
  }[];
}

/** Written beside, flushed and renamed: a run killed meanwhile goes on from the one before. */
export async function saveDistilState(folder: string, state: DistilState, files: FileLayer): Promise<void> {
  const path = join(folder, RECORD_FOLDER, FILE);
  const temporary = `${path}.tmp`;
  const header: Header = {
    made: state.made,
    begun_at: state.begunAt,
    looked_at: state.lookedAt,
    rate: state.rate,
    held_out_before: state.heldOutBefore,
    best: { step: state.best.step, loss: state.best.loss },
    tensors: [...state.tensors].map(([name, { weights, first, size }]) => ({
      name,
      weights: weights.length,
      living: first.length,
      size,
    })),
  };
  const words = new TextEncoder().encode(JSON.stringify(header));
  await attempt("removing", temporary, () => files.rm(temporary, { force: true }));
  const file = await attempt("creating", temporary, () => files.open(temporary, "wx"));
  let position = 0;
  const put = async (bytes: Uint8Array): Promise<void> => {
    await writeFully(file, bytes, position, temporary);
    position += bytes.byteLength;
  };
  try {
    await put(bytesOf(Float64Array.of(words.byteLength)));
    await put(words);
    for (const [name, { weights, first, second }] of state.tensors) {
      const packed = packLiving(weights, first.length);
      const best = state.best.living.get(name)!;
      for (const part of [packed.mask, packed.values, first, second, best]) await put(bytesOf(part));
    }
    await attempt("flushing", temporary, () => file.sync());
  } catch (error) {
    await file.close().catch(() => {});
    await files.rm(temporary, { force: true }).catch(() => {});
    throw error;
  }
  await closeWritten(file, temporary);
  await attempt("renaming", temporary, () => files.rename(temporary, path));
}

/** Did a stopped run leave a state? */
export function hasDistilState(folder: string, files: FileLayer): Promise<boolean> {
  return exists(join(folder, RECORD_FOLDER, FILE), files);
}

/**
 * What a stopped run left, or nothing. Throws `IO_*` where it cannot be read: distilling anew would begin from weights
 * that were distilled before.
 */
export async function loadDistilState(folder: string, files: FileLayer): Promise<DistilState | undefined> {
  if (!(await hasDistilState(folder, files))) return undefined;
  const path = join(folder, RECORD_FOLDER, FILE);
  const source = await FileSource.open(path, files);
  try {
    let position = 0;
    const take = async (byteLength: number): Promise<Uint8Array> => {
      const bytes = await source.read(position, position + byteLength);
      position += byteLength;
      // Its own memory, aligned to whatever it holds.
      return bytes.slice();
    };
    const [length] = new Float64Array((await take(8)).buffer);
    const header = JSON.parse(new TextDecoder().decode(await take(length))) as Header;
    const tensors = new Map<
      string,
      { weights: Float32Array; first: Float32Array; second: Float32Array; size: number }
    >();
    const living = new Map<string, Float32Array>();
    const floatsOf = async (count: number): Promise<Float32Array> => new Float32Array((await take(4 * count)).buffer);
    for (const { name, weights: count, living: places, size } of header.tensors) {
      const mask = await take(Math.ceil(count / 8));
      const weights = unpackLiving(mask, await floatsOf(places), count);
      tensors.set(name, { weights, first: await floatsOf(places), second: await floatsOf(places), size });
      living.set(name, await floatsOf(places));
    }
    const { made, begun_at: begunAt, looked_at: lookedAt, rate, held_out_before: heldOutBefore, best } = header;
    return { made, begunAt, lookedAt, rate, heldOutBefore, best: { ...best, living }, tensors };
  } finally {
    await source.close();
  }
}

export async function removeDistilState(folder: string, files: FileLayer): Promise<void> {
  const path = join(folder, RECORD_FOLDER, FILE);
  for (const each of [path, `${path}.tmp`]) await attempt("removing", each, () => files.rm(each, { force: true }));
}

function packLiving(weights: Float32Array, living: number): { mask: Uint8Array; values: Float32Array } {
  const mask = new Uint8Array(Math.ceil(weights.length / 8));
  const values = new Float32Array(living);
  let found = 0;
  for (let at = 0; at < weights.length; at++) {
    if (weights[at] === 0) continue;
    mask[at >> 3] |= 1 << (at & 7);
    values[found++] = weights[at];
  }
  return { mask, values };
}

function unpackLiving(mask: Uint8Array, values: Float32Array, count: number): Float32Array {
  const weights = new Float32Array(count);
  let found = 0;
  for (let at = 0; at < count; at++) if ((mask[at >> 3] >> (at & 7)) & 1) weights[at] = values[found++];
  return weights;
}

function bytesOf({ buffer, byteOffset, byteLength }: Float32Array | Float64Array | Uint8Array): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}
