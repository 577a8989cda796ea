/** A prompt and what an answer to it must be. Admission asks every anchor of a body's organs. */
export interface Anchor {
  readonly prompt: string;
  /** Regular expression, or text within the answer. */
  readonly must: { readonly match: string } | { readonly contain: string } | { readonly equal: string };
  readonly line: number;
}

/**
 * Anchors of a JSON lines file: `{"prompt": …, "must": "text"}`; a bare text is a regular expression, and `must` may be
 * `{"match": "regex"}`, `{"contain": "text"}` or `{"equal": "text"}`.
 */
export function parseAnchors(text: string): { anchors: Anchor[]; faults: { line: number; message: string }[] } {
  const anchors: Anchor[] = [];
  const faults: { line: number; message: string }[] = [];
  text.split("\n").forEach((row, at) => {
    if (row.trim() === "") return;
    const line = at + 1;
    try {
      anchors.push({ ...anchorOf(JSON.parse(row)), line });
    } catch (error) {
      faults.push({ line, message: (error as Error).message });
    }
  });
  if (anchors.length === 0 && faults.length === 0) faults.push({ line: 1, message: "there is no anchor in it" });
  return { anchors, faults };
}

function anchorOf(value: unknown): Omit<Anchor, "line"> {
  const { prompt, must } = (value ?? {}) as { prompt?: unknown; must?: unknown };
  if (typeof prompt !== "string") throw new Error('"prompt" must be text');
  const rule = typeof must === "string" ? { match: must } : (must as Record<string, unknown> | undefined);
  const [kind, operand, ...more] = Object.entries(rule ?? {}).flat();
  if (typeof operand !== "string" || more.length > 0 || !["match", "contain", "equal"].includes(String(kind))) {
    throw new Error('"must" must be a regular expression, or {"match": …}, {"contain": …} or {"equal": …}');
  }
  if (kind === "match") new RegExp(operand);
  return { prompt, must: { [kind as string]: operand } as unknown as Anchor["must"] };
}

export function holds({ must }: Anchor, answer: string): boolean {
  if ("contain" in must) return answer.includes(must.contain);
  if ("equal" in must) return answer.trim() === must.equal.trim();
  return new RegExp(must.match).test(answer);
}
