/**
 * A file as the format sees it: a length and positional reads. `read` returns exactly `end - begin` bytes or throws.
 */
export interface ByteSource {
  readonly byteLength: number;
  read(begin: number, end: number): Promise<Uint8Array>;
}

/** A `ByteSource` over bytes in memory. */
export function memorySource(bytes: Uint8Array): ByteSource {
  return {
    byteLength: bytes.byteLength,
    read: async (begin, end) => bytes.subarray(begin, end),
  };
}
