/** What a verifier found of an answer. */
export interface Verdict {
  readonly verifier: string;
  readonly passed: boolean;
  /** Why not, for whoever mends the prompt; empty where it passed. */
  readonly reason: string;
}

/** What a verifier gets to see. */
export interface Checked {
  readonly answer: string;
  /** What was asked, as the client wrote it. */
  readonly input: string;
}

export type Verifier = (checked: Checked, signal: AbortSignal) => Promise<Verdict>;

export function verdict(verifier: string, fault: string | undefined): Verdict {
  return { verifier, passed: fault === undefined, reason: fault ?? "" };
}
