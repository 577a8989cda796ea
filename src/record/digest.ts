import { createXXHash128 } from "hash-wasm";
import { type FileLayer, FileSource, nodeFiles } from "../checkpoint/file-layer.js";

/**
 * XXH128 of bytes that pass through: it finds damage, not forgery, and costs a fifth of what SHA-256 does here
 * (bench/digest, docs/performance.md). `hash-wasm` is built on demand, one instance a thread.
 */
export interface Digester {
  /** 32 hexadecimal digits. */
  digest(...parts: Uint8Array[]): string;
}

export async function createDigester(): Promise<Digester> {
  const hasher = await createXXHash128();
  return {
    digest(...parts) {
      hasher.init();
      for (const part of parts) hasher.update(part);
      return hasher.digest("hex");
    },
  };
}

/** The digest of a tensor from those of its pieces, in order. */
export function combineDigests(digester: Digester, pieces: readonly string[]): string {
  return digester.digest(new TextEncoder().encode(pieces.join("")));
}

/** Side files are copied and digested this much at a time; part of the definition of their digest. */
export const SIDE_FILE_PIECE_BYTES = 4 << 20;

/** Digest of a side file as the ledger has it: over the digests of its pieces. */
export async function digestSideFile(path: string, digester: Digester, files: FileLayer = nodeFiles): Promise<string> {
  const source = await FileSource.open(path, files);
  try {
    const chunks: string[] = [];
    for (let begin = 0; begin < source.byteLength; begin += SIDE_FILE_PIECE_BYTES) {
      chunks.push(
        digester.digest(await source.read(begin, Math.min(begin + SIDE_FILE_PIECE_BYTES, source.byteLength))),
      );
    }
    return digester.digest(new TextEncoder().encode(chunks.join("")));
  } finally {
    await source.close();
  }
}
