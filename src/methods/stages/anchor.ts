import { heal } from "./heal.js";
import type { TubeRows } from "./tube-rows.js";

/**
 * Move the drive towards the weights that give the donor's outputs from the operated model's inputs: W' = (1 − α) W + α
 * W K G⁻¹.
 *
 * W' G = W G + α W (K − G), so W' is W plus the answer to a pressure of α W (K − G), which conjugate gradients with
 * every tube open find: no inverse of G is formed, and the directions that calibration says least about are reached
 * last. Expects as pressure α · W · (K − G) / a for these rows: how the donor's inputs pull.
 * steps    conjugate-gradient steps; drive and flow of `tubes` become the anchored drive, the pressure 0
 * source   spec: reference.ts `referenceAnchor`
 */
export async function anchor(tubes: TubeRows, steps: number): Promise<void> {
  tubes.flow.set(tubes.drive);
  tubes.alive.fill(1);
  await heal(tubes, steps);
  tubes.drive.set(tubes.flow);
  tubes.pressure.fill(0);
}

/**
 * α (K − G) / a by column: the right factor that turns weights into that pressure. The damping of both is the same and
 * cancels.
 */
export function anchorPull(gram: Float32Array, cross: Float32Array, scale: Float64Array, alpha: number): Float32Array {
  const n = scale.length;
  const pull = new Float32Array(n * n);
  for (let at = 0; at < pull.length; at++) pull[at] = (alpha * (cross[at] - gram[at])) / scale[at % n];
  return pull;
}
