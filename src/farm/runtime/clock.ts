/** Time as the runtime sees it; tests bring their own. */
export interface Clock {
  /** Milliseconds that only grow. */
  now(): number;
  /** Runs `action` after so many milliseconds; the result calls it off. */
  after(milliseconds: number, action: () => void): () => void;
}

/** Node's timers count to here, 24 days; a longer one would ring at once. */
const LONGEST_MS = 2 ** 31 - 1;

export const systemClock: Clock = {
  now: () => performance.now(),
  after(milliseconds, action) {
    const timer = setTimeout(action, Math.min(milliseconds, LONGEST_MS));
    return () => clearTimeout(timer);
  },
};
