import { isFloatDtype } from "../safetensors/dtypes.js";
import type { TensorInfo } from "../safetensors/header.js";
import { elementBytes, MAX_BAND_ELEMENTS } from "./band-format.js";

/**
 * Bytes of each band of a tensor but its last, which may be shorter.
 *
 * Float tensors: a power of two of rows (last dimension), as many as fit into `bandElements`, so that bands of 256
 * rows, as surgery and verify read them, begin where these do; rows longer than that are cut. Other dtypes, which are
 * never coded: 2 × `bandElements` bytes.
 */
export function bandByteLength(tensor: TensorInfo, bandElements = MAX_BAND_ELEMENTS): number {
  if (!isFloatDtype(tensor.dtype)) return 2 * bandElements;
  const rowElements = tensor.shape.length < 2 ? 1 : tensor.shape[tensor.shape.length - 1];
  const rows = rowElements > bandElements ? 0 : 2 ** Math.floor(Math.log2(bandElements / Math.max(rowElements, 1)));
  return elementBytes(tensor.dtype) * (rows === 0 ? bandElements : rows * Math.max(rowElements, 1));
}

export function bandCount(tensor: TensorInfo, bandElements = MAX_BAND_ELEMENTS): number {
  return Math.ceil(tensor.byteLength / bandByteLength(tensor, bandElements));
}
