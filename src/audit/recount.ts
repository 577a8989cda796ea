import type { FileSource } from "../checkpoint/file-layer.js";
import type { TargetShape } from "../checkpoint/projections.js";
import { BandKernel, type KernelSizes } from "../flow/kernels.js";
import { weightPatterns } from "../flow/magnitudes.js";
import type { FlowParams } from "../flow/params.js";
import type { DataFreeFlow } from "../flow/reference.js";
import { isTurned, runResidentBand } from "../flow/resident-band.js";
import { bytesPerFloat } from "../safetensors/dtypes.js";

/** Elements that are not what the flow gives, and the byte offset in the piece of the first, or −1. */
export interface Unlike {
  unlike: number;
  firstUnlike: number;
}

/** Zeros after the operation, and those of them that were zeros before. */
export interface KernelCounts {
  dead: number;
  zeros: number;
}

interface Band {
  readonly target: TargetShape;
  /** Of the piece in both files. */
  readonly byteOffset: number;
  readonly rows: number;
}

/**
 * Does the operation over again: the kernels on the donor's weights, and every byte compared with the output's. Tests
 * hold the kernels to the readable reference, and verify runs that on a sample of its own.
 */
export class Recount {
  private readonly kernel: BandKernel;
  /** Bands larger than a slot go through one kernel, one at a time. */
  private streaming: { kernel: BandKernel; turn: Promise<unknown> } | undefined;

  constructor(
    private readonly module: WebAssembly.Module,
    private readonly sizes: KernelSizes,
    private readonly flow: DataFreeFlow,
    private readonly params: FlowParams,
  ) {
    this.kernel = new BandKernel(module, sizes, params, flow);
  }

  /** Where a piece of the donor is to be read: a slot with its margin. */
  room(slot: number): Uint8Array {
    return this.kernel.room(slot);
  }

  /** Operate on a piece of the donor that lies in `room(slot)` from `lead` bytes on; returns what the kernels count. */
  operate({ target, rows }: Band, slot: number, lead: number): KernelCounts {
    const { blockSize } = this.params;
    const { dtype, cols, storedByInput = false } = target;
    const counts: KernelCounts = { dead: 0, zeros: 0 };
    for (let row = 0; row < rows; row += blockSize) {
      const height = Math.min(blockSize, rows - row);
      const byteOffset = lead + row * cols * bytesPerFloat(dtype);
      const band = { slot, byteOffset, dtype, rows: height, cols, turned: isTurned(this.flow, storedByInput) };
      runResidentBand(this.kernel, blockSize, band, NOTHING, () => {
        counts.dead += sum(this.kernel.dead);
        counts.zeros += sum(this.kernel.zeros);
      });
    }
    return counts;
  }

  /** A band larger than a slot: read again for every pass, in row ranges. */
  streamed(band: Band, donor: FileSource, output: FileSource): Promise<Unlike> {
    this.streaming ??= {
      kernel: new BandKernel(this.module, { ...this.sizes, slotCount: 1 }, this.params, this.flow),
      turn: Promise.resolve(),
    };
    const { kernel } = this.streaming;
    const turn = this.streaming.turn.then(() => this.stream(kernel, band, donor, output));
    this.streaming.turn = turn.catch(() => {});
    return turn;
  }

  private async stream(kernel: BandKernel, band: Band, donor: FileSource, output: FileSource): Promise<Unlike> {
    const { target, byteOffset, rows } = band;
    const rowByteLength = target.cols * bytesPerFloat(target.dtype);
    const rowsPerRange = Math.floor(this.sizes.slotByteLength / rowByteLength);
    const found: Unlike = { unlike: 0, firstUnlike: -1 };
    kernel.begin(target.dtype, rows, target.cols);
    for (let pass = 0; pass < kernel.passCount; pass++) {
      for (let row = 0; row < rows; row += rowsPerRange) {
        const height = Math.min(rowsPerRange, rows - row);
        const begin = byteOffset + row * rowByteLength;
        const bytes = kernel.slot(0).subarray(0, height * rowByteLength);
        await donor.readInto(bytes, begin);
        kernel.run(pass, 0, 0, row, height);
        if (pass < kernel.passCount - 1) continue;
        const written = await output.read(begin, begin + bytes.byteLength);
        const { unlike, firstUnlike } = compare(bytes, written, target);
        if (firstUnlike >= 0 && found.firstUnlike < 0) found.firstUnlike = row * rowByteLength + firstUnlike;
        found.unlike += unlike;
      }
      kernel.end(pass);
    }
    return found;
  }
}

/** Non-finite weights are looked at elsewhere. */
const NOTHING = (): void => {};

const sum = (counts: Float64Array): number => counts.reduce((total, count) => total + count, 0);

/** What differs from what the flow gives. */
export function compare(expected: Uint8Array, output: Uint8Array, { dtype }: TargetShape): Unlike {
  const found: Unlike = { unlike: 0, firstUnlike: -1 };
  if (Buffer.compare(expected, output) === 0) return found;
  const [is, shouldBe] = [weightPatterns(output, dtype), weightPatterns(expected, dtype)];
  for (let i = 0; i < is.length; i++) {
    if (is[i] === shouldBe[i]) continue;
    found.unlike++;
    if (found.firstUnlike < 0) found.firstUnlike = i * bytesPerFloat(dtype);
  }
  return found;
}
