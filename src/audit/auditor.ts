import { createXXHash128 } from "hash-wasm";
import { DirectFiles } from "../checkpoint/direct-files.js";
import { type FileLayer, FileSource } from "../checkpoint/file-layer.js";
import type { TargetShape } from "../checkpoint/projections.js";
import { magnitudeFormat, weightPatterns } from "../flow/magnitudes.js";
import type { FlowParams } from "../flow/params.js";
import { type DataFreeFlow, deadInTile, type TileView } from "../flow/reference.js";
import { compareRows, probeSigns } from "../record/evidence.js";
import { bytesPerFloat, type FloatDtype } from "../safetensors/dtypes.js";
import { decodeFloats } from "../safetensors/float-bits.js";
import type {
  AuditFindings,
  AuditJob,
  AuditSetup,
  BandFindings,
  BandProbe,
  PieceAudit,
  PieceFindings,
} from "./audit-jobs.js";
import { compare, Recount, type Unlike } from "./recount.js";

interface AuditExports {
  compare16(donor: number, output: number, count: number, out: number): number;
  compare32(donor: number, output: number, count: number, out: number): number;
}

const PAGE_BYTES = 65_536;
const COUNTS_PTR = 4096;
const FIRST_SLOT = PAGE_BYTES;

/** Wasm modules of the counting and of the flows' kernels. */
export interface AuditModules {
  readonly audit: WebAssembly.Module;
  readonly surgery: WebAssembly.Module;
}

/**
 * Re-reads files for verify, on a thread of its own or inline. Shares no code with what wrote them but the format, the
 * kernels, the reference iteration and the definitions of a digest and of evidence.
 */
export class Auditor {
  private readonly memory: WebAssembly.Memory;
  private readonly wasm: AuditExports;
  private readonly recount: Recount | undefined;
  private readonly sharedHasher = createXXHash128();
  private readonly pieces: DirectFiles;
  private readonly sources = new Map<string, Promise<FileSource>>();
  /** Bytes from one slot to the next: a donor's stretch, then the output's, with unused bytes between and after. */
  private readonly stride: number;
  private signs: { readonly name: string; readonly values: Float64Array } | undefined;

  constructor(
    { audit, surgery }: AuditModules,
    private readonly setup: AuditSetup,
    private readonly files: FileLayer,
  ) {
    const direct = new Set(setup.direct);
    this.pieces = new DirectFiles(files, MAX_OPEN_FILES, (path) => direct.has(path));
    const { sizes, recount } = setup;
    this.stride = Math.ceil(sizes.slotByteLength / PAGE_BYTES + 1) * PAGE_BYTES;
    const pages = (FIRST_SLOT + sizes.slotCount * 2 * this.stride) / PAGE_BYTES;
    this.memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
    this.wasm = new WebAssembly.Instance(audit, { env: { memory: this.memory } }).exports as unknown as AuditExports;
    this.recount = recount === undefined ? undefined : new Recount(surgery, sizes, recount.flow, recount.params);
  }

  readonly handle = async (job: AuditJob, slot: number): Promise<AuditFindings> =>
    job.kind === "piece" ? this.auditPiece(job, slot) : this.probeBand(job);

  async close(): Promise<void> {
    await this.pieces.close();
    for (const source of this.sources.values()) await source.then((file) => file.close()).catch(() => {});
  }

  private async auditPiece(job: PieceAudit, slot: number): Promise<PieceFindings> {
    const { target, donorPath, outputPath } = job;
    const stretch = this.stretchOf(job);
    const isWhole = job.byteLength > 0 && job.byteLength <= stretch;
    if (isWhole && target !== undefined && donorPath !== undefined && job.healed === undefined && this.recount) {
      const found = await this.recountPiece({ ...job, target, donorPath }, this.recount, slot);
      if (found !== undefined) return found;
    }
    // An instance a job: pieces of several slots are digested between each other's reads.
    const hasher = await (isWhole ? this.sharedHasher : createXXHash128());
    let initialised = false;
    let digestSeconds = 0;
    const evidence: Float64Array[] | undefined = job.healed === undefined || donorPath === undefined ? undefined : [];
    const findings: Counts = { ...NOTHING_FOUND };
    let recounted: Unlike = { unlike: 0, firstUnlike: -1 };
    for (let done = 0; done < job.byteLength; done += stretch) {
      const length = Math.min(stretch, job.byteLength - done);
      const position = job.byteOffset + done;
      const [outputBytes, donorBytes] = await Promise.all([
        this.pieces.read(outputPath, this.room(2 * slot + 1), position, length),
        donorPath === undefined ? undefined : this.pieces.read(donorPath, this.room(2 * slot), position, length),
      ]);
      const start = performance.now();
      if (!initialised) hasher.init();
      initialised = true;
      hasher.update(outputBytes);
      digestSeconds += (performance.now() - start) / 1000;
      if (target === undefined) {
        if (donorBytes !== undefined) compareCarried(donorBytes, outputBytes, position, findings);
        continue;
      }
      this.compareTarget(target.dtype, donorBytes ?? outputBytes, outputBytes, position, findings);
      if (evidence !== undefined && donorBytes !== undefined) {
        const [before, after] = [donorBytes, outputBytes].map((bytes) => decodeFloats(bytes, target.dtype, "alias"));
        evidence.push(compareRows(before, after, this.signsOf(job.healed!, target.cols)));
      }
      if (isWhole && donorBytes !== undefined && this.recount !== undefined) {
        const expected = this.recount.room(slot).subarray(0, length);
        expected.set(donorBytes);
        this.recount.operate({ ...job, target }, slot, 0);
        recounted = compare(expected, outputBytes, target);
      }
    }
    if (!initialised) hasher.init();
    const digest = hasher.digest("hex");
    if (target !== undefined && donorPath !== undefined && job.byteLength > stretch) {
      const [donor, output] = await Promise.all([this.open(donorPath), this.open(outputPath)]);
      recounted = (await this.recount?.streamed({ ...job, target }, donor, output)) ?? recounted;
    }
    const { unlike, firstUnlike } = recounted;
    return {
      ...findings,
      unlike,
      firstUnlike: firstUnlike < 0 ? -1 : job.byteOffset + firstUnlike,
      evidence,
      digest,
      digestSeconds,
    };
  }

  /**
   * A piece that is what the flow gives, byte for byte: then the kernels' counts are its counts, and nothing else needs
   * to be looked at. Undefined where it is not, for the long way to say what is wrong.
   */
  private async recountPiece(
    job: PieceAudit & { readonly target: TargetShape; readonly donorPath: string },
    recount: Recount,
    slot: number,
  ): Promise<PieceFindings | undefined> {
    const { target, byteOffset, byteLength } = job;
    const room = recount.room(slot);
    const [output, donor] = await Promise.all([
      this.pieces.read(job.outputPath, this.room(2 * slot + 1), byteOffset, byteLength),
      this.pieces.read(job.donorPath, room, byteOffset, byteLength),
    ]);
    const { dead, zeros } = recount.operate({ ...job, target }, slot, donor.byteOffset - room.byteOffset);
    if (Buffer.compare(donor, output) !== 0) return undefined;
    const hasher = await this.sharedHasher;
    const start = performance.now();
    const digest = hasher.init().update(output).digest("hex");
    const digestSeconds = (performance.now() - start) / 1000;
    const counts = { ...NOTHING_FOUND, dead, killed: dead - zeros, alreadyZero: zeros };
    return { ...counts, unlike: 0, firstUnlike: -1, evidence: undefined, digest, digestSeconds };
  }

  /** A buffer of this memory, with its margin. */
  private room(index: number): Uint8Array {
    return new Uint8Array(this.memory.buffer, FIRST_SLOT + index * this.stride, this.stride);
  }

  /** Bytes read at once: whole rows of a target. */
  private stretchOf({ target }: PieceAudit): number {
    const { slotByteLength } = this.setup.sizes;
    if (target === undefined) return slotByteLength;
    const rowByteLength = target.cols * bytesPerFloat(target.dtype);
    return Math.max(1, Math.floor(slotByteLength / rowByteLength)) * rowByteLength;
  }

  private signsOf(name: string, cols: number): Float64Array {
    if (this.signs?.name !== name) this.signs = { name, values: probeSigns(name, cols) };
    return this.signs.values;
  }

  /** Both lie in this memory. */
  private compareTarget(
    dtype: FloatDtype,
    donorBytes: Uint8Array,
    outputBytes: Uint8Array,
    position: number,
    findings: Counts,
  ): void {
    const bytes = bytesPerFloat(dtype);
    const counts = new Uint32Array(this.memory.buffer, COUNTS_PTR, 3).fill(0);
    const compare = bytes === 2 ? this.wasm.compare16 : this.wasm.compare32;
    const count = outputBytes.byteLength / bytes;
    const wrong = compare(donorBytes.byteOffset, outputBytes.byteOffset, count, COUNTS_PTR);
    findings.dead += counts[0];
    findings.killed += counts[1];
    findings.alreadyZero += counts[2];
    findings.wrong += wrong;
    if (wrong > 0 && findings.firstWrong < 0) {
      const donor = weightPatterns(donorBytes, dtype);
      const output = weightPatterns(outputBytes, dtype);
      const negativeZero = magnitudeFormat(dtype).magnitudeMask + 1;
      const first = output.findIndex(
        (pattern, i) => pattern !== 0 && (pattern !== donor[i] || pattern === negativeZero),
      );
      findings.firstWrong = position + first * bytes;
    }
  }

  /** The parity probe: the readable reference on the donor's weights against the zeros in the output. */
  private async probeBand(job: BandProbe): Promise<BandFindings> {
    const { rows, cols, dtype, params, flow } = job;
    const byteLength = rows * cols * bytesPerFloat(dtype);
    const [donorBytes, outputBytes] = await Promise.all(
      [job.donorPath, job.outputPath].map(async (path) =>
        (await this.open(path)).read(job.byteOffset, job.byteOffset + byteLength),
      ),
    );
    const donor = weightPatterns(donorBytes, dtype);
    const output = weightPatterns(outputBytes, dtype);
    let weights = 0;
    let disagreements = 0;
    let first: readonly [number, number] | undefined;
    for (const tileCol of job.tiles) {
      const left = tileCol * params.blockSize;
      const tileCols = Math.min(params.blockSize, cols - left);
      const tile = { patterns: donor, dtype, rows, cols: tileCols, rowStride: cols, start: left };
      const dead = job.turned ? deadInTurnedTile(flow, tile, params) : deadInTile(flow, tile, params);
      weights += dead.length;
      for (let row = 0; row < rows; row++) {
        for (let col = 0; col < tileCols; col++) {
          const position = row * cols + left + col;
          const expected = dead[row * tileCols + col] === 1 ? 0 : donor[position];
          if (output[position] === expected) continue;
          disagreements++;
          first ??= [row, left + col];
        }
      }
    }
    return { tiles: job.tiles.length, weights, disagreements, first };
  }

  private open(path: string): Promise<FileSource> {
    const known = this.sources.get(path);
    if (known !== undefined) {
      this.sources.delete(path);
      this.sources.set(path, known);
      return known;
    }
    const opened = FileSource.open(path, this.files);
    this.sources.set(path, opened);
    opened.catch(() => this.sources.delete(path));
    if (this.sources.size > MAX_OPEN_FILES) {
      const [oldest, source] = this.sources.entries().next().value!;
      this.sources.delete(oldest);
      source.then((file) => file.close()).catch(() => {});
    }
    return opened;
  }
}

const MAX_OPEN_FILES = 16;

const NOTHING_FOUND = { dead: 0, killed: 0, alreadyZero: 0, wrong: 0, firstWrong: -1 } as const;

interface Counts {
  dead: number;
  killed: number;
  alreadyZero: number;
  wrong: number;
  firstWrong: number;
}

/** The mask of a tile whose rows are inputs, in the tile's own order: the reference sees it with outputs as rows. */
function deadInTurnedTile(flow: DataFreeFlow, tile: TileView, params: FlowParams): Uint8Array {
  const { patterns, rows, cols, rowStride, start, dtype } = tile;
  const turned = new (patterns.constructor as new (length: number) => typeof patterns)(rows * cols);
  for (let row = 0; row < rows; row++)
    for (let col = 0; col < cols; col++) turned[col * rows + row] = patterns[start + row * rowStride + col];
  const dead = deadInTile(flow, { patterns: turned, dtype, rows: cols, cols: rows, rowStride: rows, start: 0 }, params);
  return dead.map((_, at) => dead[(at % cols) * rows + Math.floor(at / cols)]);
}

function compareCarried(donor: Uint8Array, output: Uint8Array, position: number, findings: Counts): void {
  if (Buffer.compare(donor, output) === 0) return;
  for (let i = 0; i < donor.length; i++) {
    if (donor[i] === output[i]) continue;
    findings.wrong++;
    if (findings.firstWrong < 0) findings.firstWrong = position + i;
  }
}
