import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { attempt } from "../../checkpoint/file-layer.js";
import { PhysariumError } from "../../errors.js";
import { writeSmallFile } from "../../output/small-file.js";
import type { Journal } from "./journal.js";

export interface WorkingTexts {
  /** What calibrates, and what is measured on: never the same words. */
  readonly calibration: string;
  readonly text: string;
  /** How they came about, for people. */
  readonly words: string;
}

/** More than this of a text is never needed by a short search. */
const MOST_BYTES = 4_000_000;
/** The share of one text that calibrates; the rest is measured on. */
const CALIBRATING = 0.7;

/** Openings of many kinds, so that what the donor writes is not all of one. */
const OPENINGS = [
  "The history of",
  "Once upon a time",
  "In this article we",
  "How do I",
  "The city of",
  "Scientists have found that",
  "def main():",
  "Dear friend,",
];

/**
 * The two texts of the work: as given; one that is given split in two; without any, texts that the donor writes itself
 * by `generate`, split in two.
 */
export async function workingTexts(
  model: string,
  given: { readonly calibration?: string; readonly text?: string },
  journal: Journal,
  quiet: boolean,
): Promise<WorkingTexts> {
  const { calibration, text } = given;
  if (calibration !== undefined && text !== undefined) {
    return { calibration, text, words: `calibrated on ${calibration}, measured on ${text}` };
  }
  const one = calibration ?? text;
  if (one !== undefined) {
    const whole = await attempt("reading", one, () => readFile(one, "utf8"));
    return {
      ...(await split(whole, journal.folder)),
      words: `${one}: its first part calibrates, the rest is measured on`,
    };
  }
  const written: string[] = [];
  for (const [at, opening] of OPENINGS.entries()) {
    const args = [
      "generate",
      model,
      "--prompt",
      opening,
      "--max-tokens",
      "384",
      "--temperature",
      "1",
      "--seed",
      `${at + 1}`,
    ];
    const { output } = await journal.step(args, { output: "json", quiet });
    written.push(opening + (JSON.parse(output) as { text: string }).text);
  }
  // Parts of every text on both sides.
  const halves = written.map((words) => cut(words, CALIBRATING));
  const texts = await write(
    halves.map(([first]) => first).join("\n\n"),
    halves.map(([, second]) => second).join("\n\n"),
    journal.folder,
  );
  return { ...texts, words: "text that the donor wrote itself; --text FILE measures on yours" };
}

async function split(whole: string, folder: string): Promise<Omit<WorkingTexts, "words">> {
  const [first, second] = cut(whole.slice(0, MOST_BYTES), CALIBRATING);
  if (second.trim().length < 2_000) {
    throw new PhysariumError(
      "USAGE_TEXT_SHORT",
      `the text has ${whole.length} characters, too few to calibrate on one part and measure on the other; give a ` +
        "longer one, or --calibration and --text",
    );
  }
  return write(first, second, folder);
}

async function write(first: string, second: string, folder: string): Promise<Omit<WorkingTexts, "words">> {
  const [calibration, text] = [join(folder, "calibration.txt"), join(folder, "text.txt")];
  await writeSmallFile(calibration, first);
  await writeSmallFile(text, second);
  return { calibration, text };
}

/** In two, at the end of a line or a word near the share. */
function cut(text: string, share: number): [string, string] {
  const at = Math.floor(text.length * share);
  const line = text.indexOf("\n", at);
  const word = text.indexOf(" ", at);
  const end = line >= 0 && line - at < 2_000 ? line : word >= 0 ? word : at;
  return [text.slice(0, end), text.slice(end)];
}
