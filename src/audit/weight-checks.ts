import { join } from "node:path";
import { attempt, type FileLayer } from "../checkpoint/file-layer.js";
import { readPassage } from "../checkpoint/passage.js";
import type { KernelSizes } from "../flow/kernels.js";
import type { FlowParams } from "../flow/params.js";
import type { DataFreeFlow } from "../flow/reference.js";
import { isTurned } from "../flow/resident-band.js";
import { combineDigests, type Digester } from "../record/digest.js";
import { countTiles, partitionOf } from "../record/pieces.js";
import { bytesPerFloat } from "../safetensors/dtypes.js";
import { inlinePool, type Pool, threadPool } from "../threads/pool.js";
import { type RunnableJob, runJobs } from "../threads/run-jobs.js";
import { loadKernelModule } from "../wasm.js";
import type { AuditFindings, AuditJob, AuditSetup, BandFindings, PieceFindings } from "./audit-jobs.js";
import { type AuditedTensor, place } from "./audited-tensor.js";
import { Auditor } from "./auditor.js";
import { HealingCheck } from "./healing-check.js";
import { chooseBands, tilesTooLarge } from "./parity-sample.js";
import { TensorRecount } from "./tensor-recount.js";
import type { Findings, Verification } from "./verification.js";

/**
 * How the zeros are held to the flow: `full` does the operation over again with the kernels, every tile, and the
 * readable reference on a drawn sample; `reference` runs that on every tile, too; `sample` on the sample alone.
 */
export type ParityMode = "full" | "sample" | "reference" | "none";

export interface WeightAuditSetup {
  readonly output: string;
  readonly donor: string | undefined;
  readonly flow: DataFreeFlow | undefined;
  readonly params: FlowParams;
  readonly parity: ParityMode;
  /** The sample's. */
  readonly seed: number;
  /** False where the ledger says that survivors kept the donor's bits. */
  readonly heals: boolean;
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
  readonly coverage: Verification["coverage"];
  readonly parity: Verification["parity"];
  readonly bytesRead: number;
  readonly digestSeconds: number;
}

const SLOTS = 2;
/**
 * Read at once, at least and at most (as surgery does, which turns a band in one slot); a larger piece is gone through
 * in stretches.
 */
const MIN_STRETCH_BYTES = 1 << 20;
const MAX_STRETCH_BYTES = 24 << 20;

/** Read every tensor of the output (and the donor) again, once, and hold the mask to the flow. */
export async function checkWeights(
  tensors: readonly AuditedTensor[],
  setup: WeightAuditSetup,
  digester: Digester,
  findings: Findings,
): Promise<WeightAudit> {
  const pool = await createPool(tensors, setup);
  try {
    return await new WeightChecks(tensors, setup, digester, findings, pool).run();
  } finally {
    await pool.close();
  }
}

async function createPool(
  tensors: readonly AuditedTensor[],
  setup: WeightAuditSetup,
): Promise<Pool<AuditJob, AuditFindings>> {
  const { workers, files, params, flow } = setup;
  const modules = { audit: loadKernelModule("audit"), surgery: loadKernelModule("surgery") };
  const recount = recounts(setup) ? { flow: flow!, params } : undefined;
  const direct = await directFiles(tensors, setup);
  const audit: AuditSetup = { sizes: sizesFor(tensors, params.blockSize), recount, direct };
  if (workers > 0)
    return threadPool(new URL("./worker.js", import.meta.url), { modules, setup: audit }, workers, SLOTS);
  const auditor = new Auditor(modules, audit, files);
  return inlinePool(auditor.handle, SLOTS, () => auditor.close());
}

/** Files of both folders that are large and not in the page cache: read past it. */
async function directFiles(
  tensors: readonly AuditedTensor[],
  { donor, output, files }: WeightAuditSetup,
): Promise<string[]> {
  const shards = [...new Set(tensors.map(({ shard }) => shard))];
  const folders = donor === undefined ? [output] : [output, donor];
  const direct: string[] = [];
  for (const path of folders.flatMap((folder) => shards.map((shard) => join(folder, shard)))) {
    const { size } = await attempt("examining", path, () => files.stat(path));
    if ((await readPassage(path, size, files)) === "direct") direct.push(path);
  }
  return direct;
}

/** Is the operation done over again? */
function recounts({ donor, flow, parity }: WeightAuditSetup): boolean {
  return donor !== undefined && flow !== undefined && (parity === "full" || parity === "reference");
}

/** A slot holds the largest piece, within limits, and the longest row whatever it takes. */
function sizesFor(tensors: readonly AuditedTensor[], blockSize: number): KernelSizes {
  let maxCols = 1;
  let piece = MIN_STRETCH_BYTES;
  let row = 0;
  for (const { target, info } of tensors) {
    piece = Math.max(piece, Math.min(partitionOf(info.byteLength, target, blockSize).pieceByteLength, info.byteLength));
    if (target === undefined) continue;
    // A band that is turned has its rows as columns.
    maxCols = Math.max(maxCols, target.cols, target.storedByInput ? Math.min(target.rows, blockSize) : 0);
    row = Math.max(row, target.cols * bytesPerFloat(target.dtype));
  }
  return { slotCount: SLOTS, slotByteLength: Math.max(Math.min(piece, MAX_STRETCH_BYTES), row), maxCols };
}

class WeightChecks {
  private readonly recounts = new Map<string, Recount>();
  private readonly targets: readonly AuditedTensor[];
  private coveredTiles = 0;
  private coveredWeights = 0;
  private bytesRead = 0;
  private digestSeconds = 0;
  private recounted = { tiles: 0, weights: 0 };
  private probed = { tiles: 0, weights: 0 };
  private readonly healing: HealingCheck | undefined;

  constructor(
    private readonly tensors: readonly AuditedTensor[],
    private readonly setup: WeightAuditSetup,
    private readonly digester: Digester,
    private readonly findings: Findings,
    private readonly pool: Pool<AuditJob, AuditFindings>,
  ) {
    this.targets = tensors.filter(({ target }) => target !== undefined);
    if (this.heals) this.healing = new HealingCheck(findings, setup.heals);
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
          target: tensor.target,
          donorPath: setup.donor === undefined ? undefined : join(setup.donor, tensor.shard),
          outputPath: join(setup.output, tensor.shard),
          byteOffset: tensor.info.byteOffset + piece.byteOffset,
          byteLength: piece.byteLength,
          rows: piece.rows,
          healed: this.heals && tensor.target !== undefined ? tensor.info.name : undefined,
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
      if (recounts(this.setup)) this.finishRecount(recount, tiles, weights);
      if (this.setup.donor !== undefined) this.healing?.check(recount);
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
          : `${recount.wrong} weights are neither the donor's nor ` +
              `+0${this.heals ? `, the ledger counts ${healed} healed ones` : ""}, the first at row ${row}, column ` +
              `${element % target.cols}`,
      );
    }
  }

  /** What the kernels make of the donor is what stands in the output, or the first place where it is not. */
  private finishRecount({ tensor, unlike, firstUnlike }: TensorRecount, tiles: number, weights: number): void {
    this.recounted.tiles += tiles;
    this.recounted.weights += weights;
    if (unlike === 0) return;
    const { cols, rows, dtype } = tensor.target!;
    const element = (firstUnlike - tensor.info.byteOffset) / bytesPerFloat(dtype);
    const where =
      `matrix ${Math.floor(element / cols / rows)}, row ${Math.floor(element / cols) % rows}, column ` +
      `${element % cols}`;
    this.findings.differ(
      RECOUNT,
      place(tensor),
      `${unlike} weights are not what the flow gives from the donor's, the first at ${where}`,
    );
  }

  private async probe(tiles_total: number): Promise<WeightAudit["parity"]> {
    const { setup, findings, recounted } = this;
    const { donor, flow, parity: mode, params, seed } = setup;
    const nothing = { tiles_checked: 0, tiles_total, weights_checked: 0, reference_tiles: 0, tiles_too_large: 0 };
    if (donor === undefined || flow === undefined || mode === "none") return { mode: "none", seed: null, ...nothing };
    if (recounts(setup))
      findings.check(
        RECOUNT,
        `${recounted.tiles} of ${tiles_total} tiles (${recounted.weights} weights) done over again`,
      );
    const sample = mode === "reference" ? "all" : { seed };
    const tooLarge = tilesTooLarge(this.targets, params.blockSize);
    findings.check(REFERENCE, "");
    await runJobs(this.bandJobs(donor, flow, sample), this.pool, setup.signal);
    const { tiles, weights } = this.probed;
    const drawn = sample === "all" || tiles === tiles_total ? "" : `, drawn from seed ${seed}`;
    const left = tooLarge === 0 ? "" : `; ${tooLarge} tiles lie in bands too large to hold`;
    findings.check(
      REFERENCE,
      `reference iteration on ${tiles} of ${tiles_total} tiles (${weights} weights)${drawn}${left}`,
    );
    return {
      mode,
      seed: sample === "all" ? null : seed,
      tiles_checked: Math.max(tiles, recounted.tiles),
      tiles_total,
      weights_checked: Math.max(weights, recounted.weights),
      reference_tiles: tiles,
      tiles_too_large: tooLarge,
    };
  }

  private *bandJobs(
    donor: string,
    flow: DataFreeFlow,
    sample: { readonly seed: number } | "all",
  ): Generator<RunnableJob<AuditJob, AuditFindings>> {
    const { setup } = this;
    const { params } = setup;
    for (const band of chooseBands(this.targets, params.blockSize, sample)) {
      const { tensor, matrix, rowStart, rows, tiles } = band;
      const { dtype, cols, storedByInput = false } = tensor.target!;
      yield {
        job: {
          kind: "band",
          donorPath: join(donor, tensor.shard),
          outputPath: join(setup.output, tensor.shard),
          byteOffset: tensor.info.byteOffset + band.byteOffset,
          ...{ dtype, rows, cols, flow, params, tiles },
          turned: isTurned(flow, storedByInput),
        },
        done: (found) => {
          const { tiles: count, weights, disagreements, first } = found as BandFindings;
          this.probed.tiles += count;
          this.probed.weights += weights;
          if (first === undefined) return;
          const where = `matrix ${matrix}, row ${rowStart + first[0]}, column ${first[1]}`;
          this.findings.differ(
            REFERENCE,
            place(tensor),
            `${disagreements} weights of ${count} tiles are not what the reference iteration gives, the first at ` +
              `${where}`,
          );
        },
      };
    }
  }
}

const RECOUNT = "flow recounted";
const REFERENCE = "parity probe";
