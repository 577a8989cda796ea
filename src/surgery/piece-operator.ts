import type { DirectFiles } from "../checkpoint/direct-files.js";
import type { FileLayer } from "../checkpoint/file-layer.js";
import { PhysariumError } from "../errors.js";
import { DRIVE_BINS } from "../flow/drive-histogram.js";
import { BandKernel } from "../flow/kernels.js";
import { magnitudeFormat, weightPatterns } from "../flow/magnitudes.js";
import { isTurned, runResidentBand } from "../flow/resident-band.js";
import { createDigester, type Digester } from "../record/digest.js";
import { bytesPerFloat } from "../safetensors/dtypes.js";
import { copyPiece, donorBytes, openPieces, writeDigested } from "./piece-copier.js";
import type { Job, JobResult, OperatorSetup, PieceJob, PieceResult } from "./protocol.js";
import { TileTally } from "./tile-tally.js";

/**
 * Does what one worker does: reads a piece of the donor straight into kernel memory, operates in place, writes the same
 * bytes to the output, digests what it wrote. Runs in a worker thread, or in the main one with `--workers 0`.
 */
export class PieceOperator {
  private readonly files: DirectFiles;
  /** Bands larger than a slot need a kernel of their own, whose state lasts over several reads; one at a time. */
  private streaming: { kernel: BandKernel; turn: Promise<unknown> } | undefined;
  private readonly kernel: BandKernel;

  private constructor(
    private readonly module: WebAssembly.Module,
    private readonly setup: OperatorSetup,
    private readonly digester: Digester,
    files: FileLayer,
  ) {
    this.files = openPieces(files, setup.direct);
    this.kernel = new BandKernel(module, setup.sizes, setup.params, setup.flow, setup.task);
  }

  static async create(module: WebAssembly.Module, setup: OperatorSetup, files: FileLayer): Promise<PieceOperator> {
    return new PieceOperator(module, setup, await createDigester(), files);
  }

  /** Run one job in a slot of its own. */
  readonly handle = async (job: Job, slot: number): Promise<JobResult> => {
    if (job.kind !== "take histogram") return this.run(job, slot);
    const histogram = new Float64Array(DRIVE_BINS);
    this.kernel.takeHistogram(histogram);
    this.streaming?.kernel.takeHistogram(histogram);
    return histogram;
  };

  private async run(job: PieceJob, slot: number): Promise<PieceResult> {
    if (job.kind === "copy" || job.kind === "check") {
      return copyPiece(job, this.kernel.room(slot), this.files, this.digester);
    }
    if (job.byteLength > this.setup.sizes.slotByteLength) return this.operateStreaming(job);
    return this.operateResident(job, slot);
  }

  close(): Promise<void> {
    return this.files.close();
  }

  private async operateResident(job: PieceJob, slot: number): Promise<PieceResult> {
    const room = this.kernel.room(slot);
    const bytes = await donorBytes(job, room, this.files, job.byteOffset, job.byteLength);
    const lead = bytes.byteOffset - room.byteOffset;
    const tally = new TileTally();
    const rowByteLength = this.rowByteLength(job);
    const { flow, params } = this.setup;
    const { blockSize } = params;
    const turned = isTurned(flow, job.storedByInput ?? false);
    for (let row = 0; row < job.rows; row += blockSize) {
      const rows = Math.min(blockSize, job.rows - row);
      const byteOffset = lead + row * rowByteLength;
      const band = { slot, byteOffset, dtype: job.dtype, rows, cols: job.cols, turned };
      runResidentBand(
        this.kernel,
        blockSize,
        band,
        () => this.refuseNonFinite(job, this.kernel, () => ({ bytes, row: 0 })),
        (bandRows, cols) => tally.addBand(this.kernel, bandRows, cols, blockSize),
      );
    }
    if (this.setup.task === "count") return tally.result("");
    const { outputPath, outputByteOffset } = job;
    const digest = (written: Uint8Array) => this.digester.digest(written);
    return tally.result(await writeDigested(this.files, outputPath, bytes, outputByteOffset, digest));
  }

  /** The band is read again for every pass, in row ranges that fit the slot; the last pass writes. */
  private operateStreaming(job: PieceJob): Promise<PieceResult> {
    const { setup } = this;
    this.streaming ??= {
      kernel: new BandKernel(this.module, { ...setup.sizes, slotCount: 1 }, setup.params, setup.flow, setup.task),
      turn: Promise.resolve(),
    };
    const { kernel } = this.streaming;
    const turn = this.streaming.turn.then(() => this.stream(job, kernel));
    this.streaming.turn = turn.catch(() => {});
    return turn;
  }

  private async stream(job: PieceJob, kernel: BandKernel): Promise<PieceResult> {
    const tally = new TileTally();
    const rowByteLength = this.rowByteLength(job);
    const rowsPerRange = Math.floor(this.setup.sizes.slotByteLength / rowByteLength);
    // A digest of its own: this piece's bytes come in several turns of the event loop.
    const { createXXHash128 } = await import("hash-wasm");
    const hasher = (await createXXHash128()).init();
    kernel.begin(job.dtype, job.rows, job.cols);
    for (let pass = 0; pass < kernel.passCount; pass++) {
      const isLast = pass === kernel.passCount - 1;
      for (let row = 0; row < job.rows; row += rowsPerRange) {
        const rows = Math.min(rowsPerRange, job.rows - row);
        const room = kernel.room(0);
        const byteOffset = job.byteOffset + row * rowByteLength;
        const bytes = await donorBytes(job, room, this.files, byteOffset, rows * rowByteLength);
        kernel.run(pass, 0, bytes.byteOffset - room.byteOffset, row, rows);
        if (pass === 0 && !this.setup.allowNonFinite) this.refuseNonFiniteIn(job, bytes, row);
        if (isLast && this.setup.task === "operate") {
          const outputByteOffset = job.outputByteOffset + row * rowByteLength;
          await writeDigested(this.files, job.outputPath, bytes, outputByteOffset, (written) => hasher.update(written));
        }
      }
      kernel.end(pass);
    }
    tally.addBand(kernel, job.rows, job.cols, this.setup.params.blockSize);
    return tally.result(this.setup.task === "count" ? "" : hasher.digest("hex"));
  }

  private rowByteLength(job: PieceJob): number {
    return job.cols * bytesPerFloat(job.dtype);
  }

  private refuseNonFinite(job: PieceJob, kernel: BandKernel, where: () => { bytes: Uint8Array; row: number }): void {
    // Of a turned band the kernel's counts are those of its last tile.
    const isSeen = !isTurned(this.setup.flow, job.storedByInput ?? false);
    if (this.setup.allowNonFinite || (isSeen && kernel.nonFinite.every((count) => count === 0))) return;
    const { bytes, row } = where();
    this.refuseNonFiniteIn(job, bytes, row);
  }

  /** Name the first weight that is NaN or infinite in a range of rows. */
  private refuseNonFiniteIn(job: PieceJob, bytes: Uint8Array, rowInPiece: number): void {
    const { magnitudeMask, infinity } = magnitudeFormat(job.dtype);
    const patterns = weightPatterns(bytes, job.dtype);
    const position = patterns.findIndex((pattern) => (pattern & magnitudeMask) >= infinity);
    if (position < 0) return;
    const row = job.rowStart + rowInPiece + Math.floor(position / job.cols);
    const col = position % job.cols;
    const kind = (patterns[position] & magnitudeMask) === infinity ? "infinite" : "NaN";
    const matrix = job.matrixCount > 1 ? `matrix ${job.matrix}, ` : "";
    throw new PhysariumError(
      "DONOR_NON_FINITE",
      `${job.shard}: tensor "${job.tensor}" is ${kind} at ${matrix}row ${row}, column ${col}; the weights are ` +
        "damaged, or leave such weights untouched with --allow-non-finite",
      { shard: job.shard, tensor: job.tensor, matrix: job.matrix, row, col },
    );
  }
}
