import { PhysariumError } from "../errors.js";
import { activationFlow } from "./activation.js";
import { alpsPerRow, alpsPerTensor } from "./baselines/alps.js";
import { balanced } from "./baselines/balanced.js";
import { magnitudePerRow, magnitudePerTensor } from "./baselines/magnitude.js";
import { relativeImportanceOnly, ria } from "./baselines/ria.js";
import { sparsegpt } from "./baselines/sparsegpt.js";
import { wanda } from "./baselines/wanda.js";
import type { PruneMethod } from "./method.js";

/** Every method `compare` knows, in the order of its table; adding one is its file and a line here. */
export const METHODS: readonly PruneMethod[] = [
  magnitudePerTensor,
  magnitudePerRow,
  balanced,
  wanda,
  relativeImportanceOnly,
  ria,
  sparsegpt,
  alpsPerTensor,
  alpsPerRow,
  activationFlow(),
];

/** Methods by name; `all` is every one. Throws `USAGE_METHOD` for a name nobody has. */
export function chooseMethods(names: readonly string[]): PruneMethod[] {
  if (names.includes("all")) return [...METHODS];
  return names.map((name) => {
    const method = METHODS.find((candidate) => candidate.name === name);
    if (method !== undefined) return method;
    const known = METHODS.map((candidate) => candidate.name).join(", ");
    throw new PhysariumError("USAGE_METHOD", `--methods ${name}: known are all, ${known}`, { method: name });
  });
}
