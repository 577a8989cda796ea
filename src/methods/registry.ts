import { PhysariumError } from "../errors.js";
import { activationFlow, matchedFlow } from "./activation.js";
import { alpsPerRow, alpsPerTensor } from "./baselines/alps.js";
import { balanced } from "./baselines/balanced.js";
import { dsnot } from "./baselines/dsnot.js";
import { magnitudePerRow, magnitudePerTensor } from "./baselines/magnitude.js";
import { relativeImportanceOnly, ria } from "./baselines/ria.js";
import { swapsFromRia, swapsFromWanda } from "./baselines/sparse-swaps.js";
import { sparsegpt, sparsegptNarrow } from "./baselines/sparsegpt.js";
import { tileMagnitude } from "./baselines/tile-magnitude.js";
import { wanda } from "./baselines/wanda.js";
import type { PruneMethod } from "./method.js";

/** Every method `compare` knows, in the order of its table; adding one is its file and a line here. */
export const METHODS: readonly PruneMethod[] = [
  magnitudePerTensor,
  magnitudePerRow,
  tileMagnitude,
  balanced,
  wanda,
  dsnot,
  swapsFromWanda,
  relativeImportanceOnly,
  ria,
  swapsFromRia,
  sparsegpt,
  sparsegptNarrow,
  alpsPerTensor,
  alpsPerRow,
  activationFlow(),
  matchedFlow(),
];

/** Methods by name, each once; `all` is every one. Throws `USAGE_METHOD` for a name nobody has, or no name. */
export function chooseMethods(names: readonly string[]): PruneMethod[] {
  const known = METHODS.map(({ name }) => name);
  const unknown = names.length === 0 ? "" : names.find((name) => name !== "all" && !known.includes(name));
  if (unknown !== undefined) {
    throw new PhysariumError("USAGE_METHOD", `--methods "${unknown}": known are all, ${known.join(", ")}`, {
      method: unknown,
    });
  }
  const chosen = names.includes("all") ? known : [...new Set(names)];
  return chosen.map((name) => METHODS.find((method) => method.name === name)!);
}
