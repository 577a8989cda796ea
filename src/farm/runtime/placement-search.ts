import type { Placement } from "../plan/choose.js";

export interface Amount {
  readonly VRAM: number;
  readonly RAM: number;
}

/** A body that holds memory, as far as making room is concerned. */
export interface Resident {
  readonly body: string;
  readonly holds: Amount;
  readonly score: number;
  /** Pinned, loading or being ended: not to be counted on. */
  readonly isFixed: boolean;
  readonly isBusy: boolean;
  /** Milliseconds until its least time of residence is over. */
  readonly residesFor: number;
}

export type Search =
  /** May be loaded now, once the victims are gone. */
  | { readonly kind: "now"; readonly placement: Placement; readonly victims: readonly string[] }
  /** Room will come: when these have no more work, and in so many milliseconds at the earliest. */
  | { readonly kind: "wait"; readonly drain: readonly string[]; readonly milliseconds: number }
  /** Not while what cannot be moved stays. */
  | { readonly kind: "never"; readonly fixed: readonly string[] };

/**
 * Where a body may go. `placements` come best first; the first that room can be made for is taken. Nobody busy, loading
 * or pinned makes room, and nobody before its time; of those that may, the one of least score goes first.
 */
export function searchPlacement(
  placements: readonly Placement[],
  budget: Amount,
  residents: readonly Resident[],
): Search {
  const free = residents.reduce((left, { holds }) => less(left, holds), budget);
  const byScore = [...residents].filter(({ isFixed }) => !isFixed).sort((a, b) => a.score - b.score);
  const ready = byScore.filter(({ isBusy, residesFor }) => !isBusy && residesFor <= 0);
  for (const placement of placements) {
    const victims = roomFor(placement.need, free, ready);
    if (victims !== undefined) return { kind: "now", placement, victims: victims.map(({ body }) => body) };
  }
  for (const { need } of placements) {
    const victims = roomFor(need, free, byScore);
    if (victims === undefined) continue;
    const milliseconds = Math.max(0, ...victims.map(({ residesFor }) => residesFor));
    const drain = victims.filter(({ residesFor }) => residesFor <= 0).map(({ body }) => body);
    return { kind: "wait", drain, milliseconds };
  }
  return { kind: "never", fixed: residents.filter(({ isFixed }) => isFixed).map(({ body }) => body) };
}

/** The fewest of `candidates`, taken in their order, whose going makes room; `undefined` where all are too few. */
function roomFor(need: Amount, free: Amount, candidates: readonly Resident[]): Resident[] | undefined {
  const chosen: Resident[] = [];
  let left = free;
  for (const candidate of candidates) {
    if (fits(need, left)) break;
    chosen.push(candidate);
    left = more(left, candidate.holds);
  }
  if (!fits(need, left)) return undefined;
  // One that was taken early may not be needed after all.
  for (const each of [...chosen].reverse()) {
    const without = less(left, each.holds);
    if (!fits(need, without)) continue;
    chosen.splice(chosen.indexOf(each), 1);
    left = without;
  }
  return chosen;
}

export function fits(need: Amount, free: Amount): boolean {
  return need.VRAM <= free.VRAM && need.RAM <= free.RAM;
}

function less(a: Amount, b: Amount): Amount {
  return { VRAM: a.VRAM - b.VRAM, RAM: a.RAM - b.RAM };
}

function more(a: Amount, b: Amount): Amount {
  return { VRAM: a.VRAM + b.VRAM, RAM: a.RAM + b.RAM };
}
