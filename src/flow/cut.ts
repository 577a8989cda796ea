import type { Dynamic } from "./dynamic.js";
import type { MagnitudeFormat } from "./magnitudes.js";

/**
 * The smallest magnitude pattern of a tile that survives: exactly the weights below it die.
 *
 * Every weight of a tile goes through the same monotone map, and neighbouring magnitudes differ by at least 2^-24 of
 * themselves, far above f64 rounding, so the dead are the magnitudes below one cut. The cut is found by bisection,
 * asking the reference dynamic whether a magnitude survives; `threshold` (`driveThreshold`) only says where to look
 * first, which makes it two questions a tile instead of 15 or 31.
 *
 * mean       mean magnitude of the tile, ≥ 0; a tile of zeros dies quietly
 * returns    1 … `format.infinity`; zeros lie below every cut
 */
export function findCut(mean: number, format: MagnitudeFormat, dynamic: Dynamic, threshold: number): number {
  if (mean === 0) return 1;
  const survives = (pattern: number) =>
    pattern === format.infinity || (pattern > 0 && !dynamic.starves(format.toNumber(pattern) / mean));

  const guess = Math.min(Math.max(format.ceil(threshold * mean), 1), format.infinity);
  let dead = guess - 1;
  let alive = guess;
  for (let reach = 1; survives(dead) || !survives(alive); reach *= 4) {
    dead = Math.max(guess - reach, 0);
    alive = Math.min(guess + reach, format.infinity);
  }
  while (alive - dead > 1) {
    const middle = dead + ((alive - dead) >> 1);
    if (survives(middle)) alive = middle;
    else dead = middle;
  }
  return alive;
}
