import { createHash } from "node:crypto";
import { type Donor, elementCount, type Model, openDonor } from "../checkpoint/donor.js";
import type { ModelSource, SourceFile } from "../checkpoint/model-source.js";
import { refuseStopped } from "../errors.js";
import type { DiffRecord, DiffTotals, FileState, TensorDiff } from "../record/diff.js";
import type { TensorInfo } from "../safetensors/header.js";
import { diffTensor, NO_NUMBERS, type Placed } from "./tensor-diff.js";

export interface DiffOptions {
  readonly onProgress?: (bytesDone: number, bytesTotal: number, name: string) => void;
  readonly signal?: AbortSignal;
}

/**
 * Compare two checkpoints tensor by tensor, however their tensors are spread over files, and the files beside the
 * weights byte by byte. Both are only read, a few MiB at a time.
 *
 * Throws `DONOR_*` for what is wrong with either, `IO_*`, `STOPPED` once `signal` aborts.
 */
export async function diffModels(given: Model, other: Model, options: DiffOptions = {}): Promise<DiffRecord> {
  const [a, b] = [await openDonor(given), await openDonor(other)];
  const [tensorsA, tensorsB] = [tensorsOf(a), tensorsOf(b)];
  const [filesA, filesB] = [new OpenFiles(a.source), new OpenFiles(b.source)];
  const total = [...tensorsB.values()].reduce((sum, { info }) => sum + info.byteLength, 0);
  let done = 0;
  const tensors: TensorDiff[] = [];
  try {
    for (const [name, left] of tensorsA) {
      refuseStopped(options.signal);
      const right = tensorsB.get(name);
      if (right === undefined) {
        tensors.push(alone(name, left.info, "only in A"));
        continue;
      }
      options.onProgress?.(done, total, name);
      tensors.push(await diffTensor(name, await filesA.place(left), await filesB.place(right)));
      done += right.info.byteLength;
    }
  } finally {
    await filesA.close();
    await filesB.close();
  }
  for (const [name, { info }] of tensorsB) if (!tensorsA.has(name)) tensors.push(alone(name, info, "only in B"));
  return { a: sideOf(a), b: sideOf(b), totals: totalsOf(tensors), tensors, files: await diffFiles(a, b) };
}

interface Found {
  readonly file: string;
  readonly info: TensorInfo;
}

function tensorsOf({ shards }: Donor): Map<string, Found> {
  return new Map(shards.flatMap(({ file, tensors }) => tensors.map((info) => [info.name, { file, info }] as const)));
}

function sideOf({ path, tensorCount, modelWeights, totalSize }: Donor): DiffRecord["a"] {
  return { path, tensors: tensorCount, weights: modelWeights, bytes: totalSize };
}

function alone(name: string, { dtype, shape }: TensorInfo, state: "only in A" | "only in B"): TensorDiff {
  const here = state === "only in A";
  return {
    name,
    state,
    dtype_a: here ? dtype : null,
    dtype_b: here ? null : dtype,
    shape_a: here ? shape : null,
    shape_b: here ? null : shape,
    weights: elementCount(shape),
    ...NO_NUMBERS,
  };
}

function totalsOf(tensors: readonly TensorDiff[]): DiffTotals {
  const count = (state: TensorDiff["state"]) => tensors.filter((tensor) => tensor.state === state).length;
  const sum = (of: (tensor: TensorDiff) => number | null) =>
    tensors.reduce((total, tensor) => total + (of(tensor) ?? 0), 0);
  const reshaped = count("another shape") + count("another dtype");
  return {
    equal: count("equal"),
    changed: count("changed") + reshaped,
    only_in_a: count("only in A"),
    only_in_b: count("only in B"),
    not_compared: reshaped,
    weights_changed: sum(({ weights_changed }) => weights_changed),
    zeros_a: sum(({ zeros_a }) => zeros_a),
    zeros_b: sum(({ zeros_b }) => zeros_b),
  };
}

/** Side files by their bytes; weights in other formats are not looked at. */
async function diffFiles(a: Donor, b: Donor): Promise<DiffRecord["files"]> {
  const [namesA, namesB] = [a, b].map(({ sideFiles }) => sideFiles.map(({ file }) => file));
  const names = [...new Set([...namesA, ...namesB])].sort();
  const states: { file: string; state: FileState }[] = [];
  for (const file of names) {
    const [inA, inB] = [namesA.includes(file), namesB.includes(file)];
    if (!inA || !inB) states.push({ file, state: inA ? "only in A" : "only in B" });
    else {
      const same = (await hashOf(a.source, file)) === (await hashOf(b.source, file));
      states.push({ file, state: same ? "equal" : "changed" });
    }
  }
  return states;
}

async function hashOf(source: ModelSource, file: string): Promise<string> {
  const opened = await source.open(file);
  const hash = createHash("sha256");
  try {
    for (let begin = 0; begin < opened.byteLength; begin += 1 << 22) {
      hash.update(await opened.read(begin, Math.min(begin + (1 << 22), opened.byteLength)));
    }
    return hash.digest("hex");
  } finally {
    await opened.close();
  }
}

/** The files of one side, each opened once; only the last few stay open. */
class OpenFiles {
  private readonly open = new Map<string, SourceFile>();

  constructor(private readonly source: ModelSource) {}

  async place({ file, info }: Found): Promise<Placed> {
    let opened = this.open.get(file);
    if (opened === undefined) {
      const [oldest] = this.open;
      if (this.open.size >= MAX_OPEN && oldest !== undefined) {
        this.open.delete(oldest[0]);
        await oldest[1].close();
      }
      opened = await this.source.open(file);
      this.open.set(file, opened);
    }
    return { info, file: opened };
  }

  async close(): Promise<void> {
    for (const file of this.open.values()) await file.close();
    this.open.clear();
  }
}

const MAX_OPEN = 8;
