/** Bytes between two buffers. A kernel that strays out of its buffer lands here, and tests see it. */
export const GUARD_BYTES = 64;
const GUARD = 0xa5;
const PAGE = 65_536;

export interface BufferSpec {
  readonly name: string;
  readonly byteLength: number;
  /** The buffer starts at a multiple of this; 64 unless told. */
  readonly alignment?: number;
}

/**
 * One wasm memory cut into named buffers with guard bytes around each: wasm memories have no walls between buffers.
 *
 * ```
 * [guard][buffer 0][guard][buffer 1][guard] … [guard][page of slack]
 * ```
 * The slack lets vector loads pass the last buffer's end; nothing may be stored there.
 */
export class Arena {
  readonly memory: WebAssembly.Memory;
  private readonly buffers = new Map<string, { at: number; byteLength: number }>();

  /** `base`: first byte that is free of the module's own static data. */
  constructor(specs: readonly BufferSpec[], base = 4096) {
    let at = base + GUARD_BYTES;
    for (const { name, byteLength, alignment = 64 } of specs) {
      at = Math.ceil(at / alignment) * alignment;
      this.buffers.set(name, { at, byteLength });
      at += byteLength + GUARD_BYTES;
    }
    this.memory = new WebAssembly.Memory({ initial: Math.ceil(at / PAGE) + 1 });
    for (const guard of this.guards()) guard.fill(GUARD);
  }

  at(name: string): number {
    return this.find(name).at;
  }

  /** A view of the buffer; the memory never grows, so views stay good. */
  bytes(name: string): Uint8Array {
    const { at, byteLength } = this.find(name);
    return new Uint8Array(this.memory.buffer, at, byteLength);
  }

  words(name: string): Uint32Array {
    const { at, byteLength } = this.find(name);
    return new Uint32Array(this.memory.buffer, at, byteLength >> 2);
  }

  /** The first guard byte that something overwrote, named by the buffer before it. */
  strayWrite(): string | undefined {
    const names = ["the start", ...this.buffers.keys()];
    return names.find((_, i) => this.guards()[i].some((byte) => byte !== GUARD));
  }

  private guards(): Uint8Array[] {
    const ends = [...this.buffers.values()].map(({ at, byteLength }) => at + byteLength);
    const first = [...this.buffers.values()][0].at - GUARD_BYTES;
    return [first, ...ends].map((at) => new Uint8Array(this.memory.buffer, at, GUARD_BYTES));
  }

  private find(name: string): { at: number; byteLength: number } {
    const found = this.buffers.get(name);
    if (found === undefined) throw new Error(`the arena has no buffer "${name}"`);
    return found;
  }
}
