import { PhysariumError } from "../../errors.js";
import type { TextStream } from "./text-stream.js";
import type { TextTokenizer } from "./tokenizer.js";

/** Characters that are encoded at once: the tokenizer's process answers in about 0.2 s, and Ctrl-C waits for nobody. */
const PIECE_CHARACTERS = 1 << 18;
/** A text is not cut inside of a word, and no word is longer than this. */
const MAX_PIECE_CHARACTERS = 1 << 24;
/** Text on either side of a cut that shows whether tokens reach across it. */
const CONTEXT_CHARACTERS = 512;
/** Places that are tried for a cut. */
const MAX_TRIES = 8;
/** For few tokens a short piece is enough: about this many characters a token. */
const CHARACTERS_PER_TOKEN = 8;

/**
 * The tokens of a text of any length, the first `wanted` of them: the ones that encoding it in one go would give, a
 * part at a time.
 *
 * A text is cut where a line or a word begins, and only where the line before the cut has the same tokens with and
 * without what follows. Each part is encoded with that line in front, whose tokens are then left out: what a tokenizer
 * puts before a text (a space, `▁`) does not come again at every cut.
 */
export async function* tokensOf(
  text: TextStream,
  tokenizer: TextTokenizer,
  wanted = Number.POSITIVE_INFINITY,
): AsyncGenerator<readonly number[]> {
  const pieceLength = Math.min(PIECE_CHARACTERS, Math.max(4 * CONTEXT_CHARACTERS, CHARACTERS_PER_TOKEN * wanted));
  let buffer = "";
  let lead: Lead = { text: "", ids: [] };
  let given = 0;
  let needed = pieceLength;
  for await (const piece of text) {
    buffer += piece;
    while (buffer.length >= needed + CONTEXT_CHARACTERS) {
      const cut = await findCut(buffer, needed, tokenizer);
      if (cut === undefined) {
        if (needed >= MAX_PIECE_CHARACTERS) throw refuseEndless();
        needed *= 2;
        continue;
      }
      const ids = await encodeBehind(lead, buffer.slice(0, cut.at), tokenizer);
      yield ids.length > wanted - given ? ids.slice(0, wanted - given) : ids;
      given += ids.length;
      if (given >= wanted) return;
      buffer = buffer.slice(cut.at);
      lead = cut.lead;
      needed = pieceLength;
    }
  }
  const ids = await encodeBehind(lead, buffer, tokenizer);
  yield ids.length > wanted - given ? ids.slice(0, wanted - given) : ids;
}

/** Text before a part, and its own tokens. */
interface Lead {
  readonly text: string;
  readonly ids: readonly number[];
}

async function encodeBehind(lead: Lead, text: string, tokenizer: TextTokenizer): Promise<number[]> {
  if (text === "") return [];
  const ids = await tokenizer.encode(lead.text + text);
  // `findCut` saw this with the beginning of the text.
  return ids.slice(lead.ids.length);
}

/** The last place up to `end` where the text can be cut. */
async function findCut(
  text: string,
  end: number,
  tokenizer: TextTokenizer,
): Promise<{ at: number; lead: Lead } | undefined> {
  for (const isBoundary of [isLineStart, isWordStart]) {
    let tries = 0;
    for (let at = end; at > CONTEXT_CHARACTERS && at > end / 2 && tries < MAX_TRIES; at--) {
      if (!isBoundary(text, at)) continue;
      tries++;
      const before = text.slice(leadStart(text, at), at);
      const ids = await tokenizer.encode(before);
      const longer = await tokenizer.encode(before + text.slice(at, at + CONTEXT_CHARACTERS));
      if (before !== "" && ids.every((id, place) => id === longer[place])) return { at, lead: { text: before, ids } };
    }
  }
  return undefined;
}

/** Where the context before a cut begins: at a line's or word's start, too. */
function leadStart(text: string, at: number): number {
  for (let start = at - CONTEXT_CHARACTERS; start < at - 1; start++) if (isLineStart(text, start)) return start;
  for (let start = at - CONTEXT_CHARACTERS; start < at - 1; start++) if (isWordStart(text, start)) return start;
  return at;
}

function isLineStart(text: string, at: number): boolean {
  return text[at - 1] === "\n" && text[at].trim() !== "";
}

/** The space in front of a word belongs to it. */
function isWordStart(text: string, at: number): boolean {
  return text[at] === " " && text[at - 1].trim() !== "" && text[at + 1].trim() !== "";
}

function refuseEndless(): PhysariumError {
  return new PhysariumError(
    "USAGE_TEXT_FILE",
    `the text has ${MAX_PIECE_CHARACTERS} characters without a place where it could be cut; break its lines`,
  );
}
