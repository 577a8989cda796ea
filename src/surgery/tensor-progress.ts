import { combineDigests, type Digester } from "../record/digest.js";
import type { ActivationRecord, TensorRecord } from "../record/ledger.js";
import { countPieces, partitionOf } from "../record/pieces.js";
import type { PlannedTensor } from "./plan.js";
import type { PieceResult } from "./protocol.js";

/** A tensor being worked on: collects its pieces' results, in any order, into one ledger record. */
export class TensorProgress {
  private readonly digests: string[];
  private remaining: number;
  private weights = 0;
  private dead = 0;
  private zeros = 0;
  private nonFinite = 0;
  private tiles = 0;
  private minTile = 1;
  private maxTile = 0;

  constructor(
    readonly tensor: PlannedTensor,
    private readonly blockSize: number,
  ) {
    this.remaining = countPieces(tensor.byteLength, partitionOf(tensor.byteLength, tensor.target, blockSize));
    this.digests = new Array(this.remaining);
  }

  get isDone(): boolean {
    return this.remaining === 0;
  }

  add(piece: number, result: PieceResult): void {
    this.digests[piece] = result.digest;
    this.remaining--;
    this.weights += result.weights;
    this.dead += result.dead;
    this.zeros += result.zeros;
    this.nonFinite += result.nonFinite;
    this.tiles += result.tiles;
    this.minTile = Math.min(this.minTile, result.minTileSparsity);
    this.maxTile = Math.max(this.maxTile, result.maxTileSparsity);
  }

  /** Weights that the donor had at ±0 already, for a flow whose pieces do not count them. */
  addZeros(zeros: number): void {
    this.zeros += zeros;
  }

  digest(digester: Digester): string {
    return combineDigests(digester, this.digests);
  }

  record(digester: Digester, activation?: ActivationRecord): TensorRecord {
    const { tensor } = this;
    const partition = partitionOf(tensor.byteLength, tensor.target, this.blockSize);
    const base: TensorRecord = {
      kind: "tensor",
      at: new Date().toISOString(),
      name: tensor.name,
      shard: tensor.shard,
      role: tensor.role,
      dtype: tensor.dtype,
      shape: tensor.shape,
      byte_offset: tensor.byteOffset,
      byte_length: tensor.byteLength,
      digest: this.digest(digester),
      digest_matrix_bytes: partition.matrixByteLength,
      digest_piece_bytes: partition.pieceByteLength,
    };
    const { layer, projection, inDecoder, target } = tensor;
    if (tensor.role === "carried") return inDecoder ? { ...base, layer, projection, why: tensor.reason } : base;
    return {
      ...base,
      layer,
      projection,
      ...(inDecoder ? {} : { in_decoder: false }),
      ...(target?.storedByInput ? { stored_by_input: true } : {}),
      weights: this.weights,
      already_zero: this.zeros,
      killed: this.dead - this.zeros + (activation?.revived ?? 0),
      sparsity: this.weights === 0 ? 0 : this.dead / this.weights,
      tiles: this.tiles,
      tile_sparsity: [this.minTile, this.maxTile],
      ...activation,
      ...(this.nonFinite === 0 ? {} : { non_finite: this.nonFinite }),
    };
  }
}
