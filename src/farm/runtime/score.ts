/** What an answer was worth, and what it cost. */
export interface Outcome {
  readonly kind: "passed" | "failed" | "error" | "late";
  /** The body was loaded already. */
  readonly reused: boolean;
  /** Of the engine at its answer; where none came, since it was asked. */
  readonly seconds: number;
  /** Memory that the body holds. */
  readonly bytes: number;
}

/** Moving averages, as they stand in tier_state.json. */
export interface ScoreRecord {
  readonly food: number;
  readonly poison: number;
  readonly energy: number;
  readonly answers: number;
}

/** An answer moves an average by this much of the way. */
const WEIGHT = 0.2;
/** What nobody asks for is forgotten: half of it in ten minutes. */
const HALF_LIFE_MS = 600_000;
/** An answer of half a minute costs as much as a failed one. */
const DEAR_SECONDS = 30;
/** A hundred GiB held cost as much as a failed one. */
const DEAR_BYTES = 100 * 2 ** 30;

/**
 * How much an organ is worth its memory: food (answers that passed, a body that was there already) less poison (answers
 * that did not pass, failed or came late) less energy (seconds and bytes).
 */
export class Score {
  private food = 0;
  private poison = 0;
  private energy = 0;
  private answers = 0;

  constructor(
    private seenAt: number,
    kept?: ScoreRecord,
  ) {
    if (kept !== undefined)
      ({ food: this.food, poison: this.poison, energy: this.energy, answers: this.answers } = kept);
  }

  add({ kind, reused, seconds, bytes }: Outcome, now: number): void {
    this.fade(now);
    const move = (value: number, sample: number): number => value + WEIGHT * (sample - value);
    this.food = move(this.food, kind === "passed" ? (reused ? 1.5 : 1) : 0);
    this.poison = move(this.poison, kind === "passed" ? 0 : 1);
    this.energy = move(this.energy, seconds / DEAR_SECONDS + bytes / DEAR_BYTES);
    this.answers++;
  }

  value(now: number): number {
    this.fade(now);
    return this.food - this.poison - this.energy;
  }

  record(now: number): ScoreRecord {
    this.fade(now);
    return { food: this.food, poison: this.poison, energy: this.energy, answers: this.answers };
  }

  private fade(now: number): void {
    const kept = 0.5 ** (Math.max(0, now - this.seenAt) / HALF_LIFE_MS);
    this.food *= kept;
    this.poison *= kept;
    this.energy *= kept;
    this.seenAt = now;
  }
}
