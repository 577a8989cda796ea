import { join } from "node:path";
import type { FileLayer } from "../checkpoint/file-layer.js";
import type { FlowParams } from "../flow/params.js";
import type { DataFreeFlow } from "../flow/reference.js";
import { isTurned } from "../flow/resident-band.js";
import { combineDigests, type Digester } from "../record/digest.js";
import { countTiles, type Piece, piecesOf } from "../record/pieces.js";
import { bytesPerFloat, type FloatDtype } from "../safetensors/dtypes.js";
import { inlinePool, type Pool, threadPool } from "../threads/pool.js";
import { type RunnableJob, runJobs } from "../threads/run-jobs.js";
import { loadKernelModule } from "../wasm.js";
import type { AuditFindings, AuditJob, BandFindings, PieceFindings } from "./audit-jobs.js";
import { type AuditedTensor, place } from "./audited-tensor.js";
import { Auditor } from "./auditor.js";
import { chooseBands } from "./parity-sample.js";
import type { Findings } from "./verification.js";

export interface WeightAuditSetup {
  readonly output: string;
  readonly donor: string | undefined;
  readonly flow: DataFreeFlow | undefined;
  readonly params: FlowParams;
  readonly parity: "sample" | "full" | "none";
  readonly workers: number;
  readonly files: FileLayer;
  readonly onProgress: (bytesDone: number, bytesTotal: number) => void;
  readonly signal: AbortSignal | undefined;
}

/** What was counted again of one tensor. */
export interface Recount {
  readonly digest: string;
  readonly dead: number;
  readonly killed: number;
  readonly alreadyZero: number;
  /** Weights that are neither the donor's bits nor +0: survivors that healing moved. */
  readonly changed: number;
}

export interface WeightAudit {
  readonly recounts: ReadonlyMap<string, Recount>;
  readonly coverage: { tiles: number; tiles_total: number; weights: number; weights_target: number; fraction: number };
  readonly parity: {
    mode: "sample" | "full" | "none";
    tiles_checked: number;
    tiles_total: number;
    weights_checked: number;
    tiles_too_large: number;
  };
  readonly bytesRead: number;
  readonly digestSeconds: number;
}

const SLOTS = 2;

/** Read every tensor of the output (and the donor) again, once, and probe the mask on tiles. */
export async function checkWeights(
  tensors: readonly AuditedTensor[],
  setup: WeightAuditSetup,
  digester: Digester,
  findings: Findings,
): Promise<WeightAudit> {
  const pool = await createPool(setup);
  try {
    return await new WeightChecks(tensors, setup, digester, findings, pool).run();
  } finally {
    await pool.close();
  }
}

async function createPool({ workers, files }: WeightAuditSetup): Promise<Pool<AuditJob, AuditFindings>> {
  const module = loadKernelModule("audit");
  if (workers > 0) return threadPool(new URL("./worker.js", import.meta.url), { module, slots: SLOTS }, workers, SLOTS);
  const auditor = new Auditor(module, SLOTS, files);
  return inlinePool(auditor.handle, SLOTS, () => auditor.close());
}

class WeightChecks {
  private readonly recounts = new Map<string, Recount>();
  private readonly targets: readonly AuditedTensor[];
  private coveredTiles = 0;
  private coveredWeights = 0;
  private bytesRead = 0;
  private digestSeconds = 0;
  private probed = { tiles_checked: 0, weights_checked: 0 };

  constructor(
    private readonly tensors: readonly AuditedTensor[],
    private readonly setup: WeightAuditSetup,
    private readonly digester: Digester,
    private readonly findings: Findings,
    private readonly pool: Pool<AuditJob, AuditFindings>,
  ) {
    this.targets = tensors.filter(({ target }) => target !== undefined);
  }

  /** Flows that consume activations move survivors; those without have a reference to be held to. */
  private get heals(): boolean {
    return this.setup.flow === undefined;
  }

  /** What the check of the living weights is called. */
  private get survivorCheck(): string {
    return this.heals ? "healed survivors counted" : "survivors unchanged";
  }

  async run(): Promise<WeightAudit> {
    const { setup, findings, targets } = this;
    const { blockSize } = setup.params;
    const carried = this.tensors.length - targets.length;
    if (setup.donor !== undefined) {
      findings.check("carried-over tensors identical", `${carried} tensors, byte for byte`);
      const promise = this.heals
        ? "every weight is the donor's bits, +0, or one of as many healed survivors as the ledger counts"
        : "every weight is the donor's bits or +0";
      findings.check(this.survivorCheck, `${targets.length} targets: ${promise}`);
    }
    findings.check("digests equal the ledger's", `${this.tensors.length} tensors`);
    await runJobs(this.pieceJobs(), this.pool, setup.signal);

    const tiles_total = targets.reduce((sum, { target }) => sum + countTiles(target!, blockSize), 0);
    const weights_target = targets.reduce((sum, { target: t }) => sum + t!.matrixCount * t!.rows * t!.cols, 0);
    const coverage = {
      tiles: this.coveredTiles,
      tiles_total,
      weights: this.coveredWeights,
      weights_target,
      fraction: weights_target === 0 ? 0 : this.coveredWeights / weights_target,
    };
    findings.check(
      "tile coverage",
      `${coverage.tiles} of ${tiles_total} tiles, ${coverage.weights} of ${weights_target} weights`,
    );
    if (coverage.tiles !== tiles_total || coverage.weights !== weights_target) {
      findings.differ("tile coverage", "targets", `${tiles_total - coverage.tiles} tiles were not seen whole`);
    }
    const parity = await this.probe(tiles_total);
    return { recounts: this.recounts, coverage, parity, bytesRead: this.bytesRead, digestSeconds: this.digestSeconds };
  }

  private *pieceJobs(): Generator<RunnableJob<AuditJob, AuditFindings>> {
    const { setup } = this;
    const sides = setup.donor === undefined ? 1 : 2;
    const total = sides * this.tensors.reduce((sum, { info }) => sum + info.byteLength, 0);
    for (const tensor of this.tensors) {
      const recount = new TensorRecount(tensor, setup.params.blockSize);
      if (recount.remaining === 0) this.finishTensor(recount);
      for (const [index, piece] of recount.pieces.entries()) {
        const job: AuditJob = {
          kind: "piece",
          role: tensor.target === undefined ? "carried" : "target",
          donorPath: setup.donor === undefined ? undefined : join(setup.donor, tensor.shard),
          outputPath: join(setup.output, tensor.shard),
          byteOffset: tensor.info.byteOffset + piece.byteOffset,
          byteLength: piece.byteLength,
          dtype: tensor.info.dtype as FloatDtype,
        };
        yield {
          job,
          done: (found) => {
            const piecefound = found as PieceFindings;
            recount.add(index, piecefound);
            this.bytesRead += sides * piece.byteLength;
            this.digestSeconds += piecefound.digestSeconds;
            setup.onProgress(this.bytesRead, total);
            if (recount.remaining === 0) this.finishTensor(recount);
          },
        };
      }
    }
  }

  private finishTensor(recount: TensorRecount): void {
    const { tensor } = recount;
    const { record, target } = tensor;
    const digest = combineDigests(this.digester, recount.digests);
    this.recounts.set(tensor.info.name, {
      digest,
      dead: recount.dead,
      killed: recount.killed,
      alreadyZero: recount.alreadyZero,
      changed: recount.wrong,
    });
    if (record !== undefined && digest !== record.digest) {
      this.findings.differ(
        "digests equal the ledger's",
        place(tensor),
        `its digest is ${digest}, the ledger has ${record.digest}`,
      );
    }
    if (target !== undefined) {
      const { tiles, weights } = recount.coverage();
      this.coveredTiles += tiles;
      this.coveredWeights += weights;
    }
    const healed = this.heals && target !== undefined ? (record?.survivors_changed ?? 0) : 0;
    if (recount.wrong === healed || this.setup.donor === undefined) return;
    if (target === undefined) {
      this.findings.differ(
        "carried-over tensors identical",
        place(tensor),
        `${recount.wrong} bytes differ from the donor's, the first at byte ${recount.firstWrong} of the file`,
      );
    } else {
      const element = (recount.firstWrong - tensor.info.byteOffset) / bytesPerFloat(target.dtype);
      const row = Math.floor(element / target.cols);
      this.findings.differ(
        this.survivorCheck,
        place(tensor),
        recount.wrong === 0
          ? `no weight is healed, the ledger counts ${healed}`
          : `${recount.wrong} weights are neither the donor's nor +0${this.heals ? `, the ledger counts ${healed} healed ones` : ""}, the first at row ${row}, column ${element % target.cols}`,
      );
    }
  }

  private async probe(tiles_total: number): Promise<WeightAudit["parity"]> {
    const { setup, findings } = this;
    const { donor, flow, parity: mode, params } = setup;
    if (donor === undefined || flow === undefined || mode === "none") {
      return { mode: "none", tiles_checked: 0, tiles_total, weights_checked: 0, tiles_too_large: 0 };
    }
    const { bands, tilesTooLarge } = chooseBands(this.targets, params.blockSize, mode);
    function* jobs(checks: WeightChecks): Generator<RunnableJob<AuditJob, AuditFindings>> {
      for (const band of bands) {
        const { tensor, matrix, rowStart, rows, tiles } = band;
        const { dtype, cols, storedByInput = false } = tensor.target!;
        const byteOffset = tensor.info.byteOffset + band.byteOffset;
        yield {
          job: {
            kind: "band",
            donorPath: join(donor!, tensor.shard),
            outputPath: join(setup.output, tensor.shard),
            byteOffset,
            dtype,
            rows,
            cols,
            flow: flow!,
            params,
            turned: isTurned(flow!, storedByInput),
            tiles,
          },
          done: (found) => {
            const { tiles: count, weights, disagreements, first } = found as BandFindings;
            checks.probed.tiles_checked += count;
            checks.probed.weights_checked += weights;
            if (first === undefined) return;
            const where = `matrix ${matrix}, row ${rowStart + first[0]}, column ${first[1]}`;
            findings.differ(
              "parity probe",
              place(tensor),
              `${disagreements} weights of ${count} tiles are not what the reference iteration gives, the first at ${where}`,
            );
          },
        };
      }
    }
    findings.check("parity probe", "");
    await runJobs(jobs(this), this.pool, setup.signal);
    const { tiles_checked, weights_checked } = this.probed;
    const tooLarge = tilesTooLarge === 0 ? "" : `; ${tilesTooLarge} tiles lie in bands too large to hold`;
    findings.check(
      "parity probe",
      `reference iteration on ${tiles_checked} of ${tiles_total} tiles (${weights_checked} weights)${tooLarge}`,
    );
    return { mode, tiles_checked, tiles_total, weights_checked, tiles_too_large: tilesTooLarge };
  }
}

/** Collects the pieces of one tensor, in any order. */
class TensorRecount {
  readonly pieces: readonly Piece[];
  readonly digests: string[];
  remaining: number;
  dead = 0;
  killed = 0;
  alreadyZero = 0;
  wrong = 0;
  firstWrong = Number.POSITIVE_INFINITY;
  /** Rows seen of each band of each matrix. */
  private readonly rowsSeen: Uint32Array;
  private readonly bandsPerMatrix: number;

  constructor(
    readonly tensor: AuditedTensor,
    private readonly blockSize: number,
  ) {
    const { info, target } = tensor;
    this.pieces = [...piecesOf(info.byteLength, target, blockSize)];
    this.digests = new Array(this.pieces.length);
    this.remaining = this.pieces.length;
    this.bandsPerMatrix = target === undefined ? 0 : Math.ceil(target.rows / blockSize);
    this.rowsSeen = new Uint32Array(target === undefined ? 0 : this.bandsPerMatrix * target.matrixCount);
  }

  add(index: number, found: PieceFindings): void {
    const piece = this.pieces[index];
    this.digests[index] = found.digest;
    this.remaining--;
    this.dead += found.dead;
    this.killed += found.killed;
    this.alreadyZero += found.alreadyZero;
    this.wrong += found.wrong;
    if (found.firstWrong >= 0) this.firstWrong = Math.min(this.firstWrong, found.firstWrong);
    for (let row = piece.rowStart; row < piece.rowStart + piece.rows; row++) {
      this.rowsSeen[piece.matrix * this.bandsPerMatrix + Math.floor(row / this.blockSize)]++;
    }
  }

  /** Tiles whose every row was seen exactly once, and their weights, tile by tile. */
  coverage(): { tiles: number; weights: number } {
    const { rows, cols } = this.tensor.target!;
    let tiles = 0;
    let weights = 0;
    for (let band = 0; band < this.rowsSeen.length; band++) {
      const top = (band % this.bandsPerMatrix) * this.blockSize;
      const height = Math.min(this.blockSize, rows - top);
      if (this.rowsSeen[band] !== height) continue;
      for (let left = 0; left < cols; left += this.blockSize) {
        tiles++;
        weights += height * Math.min(this.blockSize, cols - left);
      }
    }
    return { tiles, weights };
  }
}
