import { join } from "node:path";
import * as v from "valibot";
import type { MatrixKind } from "../checkpoint/matrix-kind.js";
import { Count, Digest, FileName, Words } from "../record/read-json.js";
import type { Plan, PlannedShard, PlannedTensor } from "../surgery/plan.js";
import type { Slice } from "./cut.js";

/** A line of tensors.jsonl: what one machine has to know of the donor, so that it opens its own shards alone. */
const Target = v.looseObject({
  dtype: v.picklist(["BF16", "F16", "F32"]),
  matrix_count: Count,
  rows: Count,
  cols: Count,
  stored_by_input: v.optional(v.literal(true)),
});

const Tensor = v.looseObject({
  name: v.string(),
  dtype: Words,
  shape: v.array(Count),
  byte_offset: Count,
  byte_length: Count,
  /** Why it is carried over, or what made it a target: a record of the ledger says so of some. */
  reason: Words,
  layer: v.pipe(v.number(), v.integer()),
  projection: v.string(),
  in_decoder: v.boolean(),
  target: v.optional(Target),
});

export const PartTensors = v.looseObject({
  part: Count,
  shards: v.array(
    v.looseObject({
      file: FileName,
      byte_length: Count,
      modified_ns: Words,
      data_byte_offset: Count,
      header_digest: Digest,
      whole: v.boolean(),
      first_byte: Count,
      end_byte: Count,
      tensors: v.array(Tensor),
    }),
  ),
});
export type PartTensors = v.InferOutput<typeof PartTensors>;
export type PartStretch = PartTensors["shards"][number];

/** The bytes of a shard that a slice has; a whole shard's begin with its header. */
export function stretchOf({ tensors, byteLength }: PlannedShard, { first, end, isWhole }: Slice): [number, number] {
  if (isWhole) return [0, byteLength];
  const last = tensors[end - 1];
  return [tensors[first].byteOffset, last.byteOffset + last.byteLength];
}

/** What is said of a part to the machine that does it. */
export function describePart(
  part: number,
  slices: readonly Slice[],
  plan: Plan,
  headerDigests: ReadonlyMap<string, string>,
): PartTensors {
  return {
    part,
    shards: slices.map((slice) => {
      const shard = plan.shards[slice.shard];
      const [first_byte, end_byte] = stretchOf(shard, slice);
      return {
        file: shard.file,
        byte_length: shard.byteLength,
        modified_ns: shard.modifiedNs,
        data_byte_offset: shard.dataByteOffset,
        header_digest: headerDigests.get(shard.file)!,
        whole: slice.isWhole,
        first_byte,
        end_byte,
        tensors: shard.tensors.slice(slice.first, slice.end).map(describeTensor),
      };
    }),
  };
}

function describeTensor(tensor: PlannedTensor): v.InferOutput<typeof Tensor> {
  const { name, dtype, shape, byteOffset, byteLength, reason, layer, projection, inDecoder, target } = tensor;
  return {
    name,
    dtype,
    shape: [...shape],
    byte_offset: byteOffset,
    byte_length: byteLength,
    reason,
    layer,
    projection,
    in_decoder: inDecoder,
    ...(target === undefined
      ? {}
      : {
          target: {
            dtype: target.dtype,
            matrix_count: target.matrixCount,
            rows: target.rows,
            cols: target.cols,
            ...(target.storedByInput ? { stored_by_input: true as const } : {}),
          },
        }),
  };
}

/** A part's shards as the plan of the whole had them, with the part's own tensors alone. */
export function plannedShards({ shards }: PartTensors, donorPath: string): PlannedShard[] {
  return shards.map(({ file, byte_length, modified_ns, data_byte_offset, tensors }) => ({
    file,
    path: join(donorPath, file),
    byteLength: byte_length,
    modifiedNs: modified_ns,
    dataByteOffset: data_byte_offset,
    tensors: tensors.map((tensor): PlannedTensor => {
      const { target } = tensor;
      return {
        name: tensor.name,
        shard: file,
        dtype: tensor.dtype,
        shape: tensor.shape,
        byteOffset: tensor.byte_offset,
        byteLength: tensor.byte_length,
        role: target === undefined ? "carried" : "target",
        reason: tensor.reason,
        layer: tensor.layer,
        projection: tensor.projection,
        kind: undefined as MatrixKind | undefined,
        inDecoder: tensor.in_decoder,
        target:
          target === undefined
            ? undefined
            : {
                dtype: target.dtype,
                matrixCount: target.matrix_count,
                rows: target.rows,
                cols: target.cols,
                ...(target.stored_by_input ? { storedByInput: true } : {}),
              },
        // Counted by the kernels, tile by tile.
        tiles: 0,
      };
    }),
  }));
}
