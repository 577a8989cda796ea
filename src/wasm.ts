import { readFileSync } from "node:fs";
import { PhysariumError } from "./errors.js";

/** Compile a kernel that the build put into `wasm/`: `loadKernelModule("surgery")` for assembly/surgery.ts. */
export function loadKernelModule(name: string): WebAssembly.Module {
  const url = new URL(`../wasm/${name}.wasm`, import.meta.url);
  let bytes: Uint8Array<ArrayBuffer>;
  try {
    bytes = new Uint8Array(readFileSync(url));
  } catch (error) {
    throw new PhysariumError(
      "INTERNAL",
      `the kernel ${url.pathname} is missing; run npm run build, or install the package again`,
      {},
      error,
    );
  }
  return new WebAssembly.Module(bytes);
}
