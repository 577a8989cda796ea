import { createXXHash128 } from "hash-wasm";

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
