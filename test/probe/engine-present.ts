import { existsSync } from "node:fs";

/** The engine is an optional dependency: without it the tests that need it are skipped, saying so. */
export const hasEngine: boolean = await import("onnxruntime-node").then(
  () => true,
  () => false,
);
if (!hasEngine) console.warn("onnxruntime-node is not installed: tests of the forward pass are skipped");

/** A donor that stays outside the repository, or `undefined` where it is not there. */
export function sharedDonor(name: string): string | undefined {
  const path = `../shared/donors/${name}`;
  if (existsSync(path)) return path;
  console.warn(`${path} is absent: tests that need it are skipped`);
  return undefined;
}

export const LOAM = "examples/donors/loam";
