import { printable } from "../errors.js";

/**
 * The report as data: sections of paragraphs, lists, tables and pictures, written once and rendered as Markdown and as
 * HTML.
 *
 * A `Piece` that is a plain string is ours; whatever comes from a donor is `foreign` (prose) or `code` (names, paths),
 * so that no renderer can mistake it for markup.
 */
export type Piece =
  | string
  | { readonly foreign: string }
  | { readonly code: string }
  | { readonly strong: string }
  | { readonly command: string };
export type Text = readonly Piece[];

export interface Column {
  readonly name: string;
  /** Numbers stand right. */
  readonly numeric?: boolean;
}

export interface Table {
  readonly kind: "table";
  readonly caption: string;
  readonly columns: readonly Column[];
  /** The first cell of a row names it. */
  readonly rows: readonly (readonly Text[])[];
  readonly note?: Text;
  /** HTML folds it away under its caption. */
  readonly folded?: boolean;
  /** Numbers behind a picture that Markdown has no use for. */
  readonly htmlOnly?: boolean;
}

export interface Paragraph {
  readonly kind: "paragraph";
  readonly text: Text;
}

export interface List {
  readonly kind: "list";
  readonly items: readonly { readonly mark?: "good" | "warning"; readonly text: Text }[];
}

/** Monospaced lines: a formula, a sparkline. */
export interface Lines {
  readonly kind: "lines";
  readonly label: string;
  readonly lines: readonly string[];
  readonly markdownOnly?: boolean;
}

/** A picture of report.html; Markdown leaves it out and keeps the tables that stand beside it. */
export interface Picture {
  readonly kind: "picture";
  readonly picture: PictureName;
  readonly title: string;
  readonly caption: Text;
}

export type PictureName =
  | "stages"
  | "damage"
  | "layer-map"
  | "depth"
  | "distribution"
  | "drives"
  | "tiles"
  | "timeline"
  | "hosts"
  | "nll"
  | "curve"
  | "divergence"
  | "formats";

export type Block = Table | Paragraph | List | Lines | Picture;

export interface Section {
  readonly id: string;
  readonly title: string;
  readonly blocks: readonly Block[];
}

export interface ReportDocument {
  readonly donorName: string;
  readonly lede: Text;
  readonly sections: readonly Section[];
}

/** Names longer than this are cut in the middle: a tensor name may be as long as the header allows. */
const MAX_NAME = 160;
const MAX_PROSE = 1200;

/** Prose from outside: control characters become visible, very long text is cut in the middle. */
export function foreign(text: string): Piece {
  return { foreign: clip(printable(String(text)), MAX_PROSE) };
}

/** A name or path from outside. */
export function code(text: string): Piece {
  return { code: clip(printable(String(text)), MAX_NAME) };
}

/** A command line for the reader to type. */
export function command(text: string): Piece {
  return { command: clip(printable(text), 2 * MAX_NAME) };
}

export function strong(text: string): Piece {
  return { strong: text };
}

/** Tagged template: `say\`layer ${foreign(name)} has ${percent(x)}\``. A line break in the source is a space. */
export function say(strings: TemplateStringsArray, ...values: (Piece | Text | number)[]): Text {
  const pieces: Piece[] = [];
  for (const [i, text] of strings.entries()) {
    const spoken = text.replace(/\s*\n\s*/g, " ");
    if (spoken !== "") pieces.push(spoken);
    if (i >= values.length) continue;
    const value = values[i];
    if (typeof value === "number") pieces.push(String(value));
    else if (Array.isArray(value)) pieces.push(...(value as Text));
    else pieces.push(value as Piece);
  }
  return pieces;
}

export function paragraph(text: Text): Paragraph {
  return { kind: "paragraph", text };
}

/** Plain characters of a text, for terminals and text alternatives. */
export function plain(text: Text): string {
  return text
    .map((piece) => {
      if (typeof piece === "string") return piece;
      if ("foreign" in piece) return piece.foreign;
      if ("code" in piece) return piece.code;
      return "strong" in piece ? piece.strong : piece.command;
    })
    .join("");
}

export function clip(text: string, length: number): string {
  if (text.length <= length) return text;
  const characters = [...text];
  if (characters.length <= length) return text;
  const head = Math.ceil((length - 1) / 2);
  return `${characters.slice(0, head).join("")}…${characters.slice(characters.length - (length - 1 - head)).join("")}`;
}

/** A path as one would type it: quoted where the shell would split or expand it. */
export function shellQuote(path: string): string {
  return /^[\w./~@:+-]+$/.test(path) ? path : `'${path.replaceAll("'", `'\\''`)}'`;
}
