import { type Verifier, verdict } from "./verdict.js";

const QUOTES = [/"([^"\n]+)"/g, /“([^”\n]+)”/g, /«([^»\n]+)»/g, /^>\s?(.+)$/gm];
/** Shorter quotes are words set apart, not passages. */
const SHORTEST = 2;

/**
 * What the answer takes from its source stands there: every quoted passage, or the whole answer where nothing is
 * quoted. White space and letter case do not count.
 *
 * source  the text; what was asked where there is none
 */
export function sourcePresent(source: string | undefined): Verifier {
  return async ({ answer, input }) => {
    const text = plain(source ?? input);
    const quoted = QUOTES.flatMap((quote) => [...answer.matchAll(quote)].map((match) => match[1].trim()));
    const passages = quoted.filter((each) => each.length >= SHORTEST);
    const wanted = passages.length > 0 ? passages : [answer.trim()];
    if (wanted[0] === "") return verdict("source_present", "the answer is empty");
    const missing = wanted.find((passage) => !text.includes(plain(passage)));
    const shown = missing === undefined || missing.length <= 80 ? missing : `${missing.slice(0, 80)}…`;
    return verdict("source_present", missing === undefined ? undefined : `the source does not hold: ${shown}`);
  };
}

function plain(text: string): string {
  return text.normalize("NFKC").toLowerCase().replace(/\s+/g, " ").trim();
}
