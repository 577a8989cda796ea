import type { ReportInput } from "../record/report-input.js";
import type { Block, Piece, Section, Table, Text } from "./report-text.js";
import { foreign } from "./report-text.js";
import { reportDocument } from "./sections.js";

/** REPORT.md: every section of the report as GitHub-flavoured Markdown, pictures replaced by the tables behind them. */
export function renderMarkdown(report: ReportInput): string {
  const { donorName, lede, sections } = reportDocument(report);
  const parts = [`# Surgery report: ${pieceText(foreign(donorName))}`, textOf(lede), ...sections.map(sectionText)];
  return `${parts.join("\n\n")}\n`;
}

function sectionText({ title, blocks }: Section): string {
  const parts = blocks.map(blockText).filter((text) => text !== "");
  return [`## ${title}`, ...parts].join("\n\n");
}

function blockText(block: Block): string {
  switch (block.kind) {
    case "paragraph":
      return textOf(block.text);
    case "list":
      return block.items
        .map(({ mark, text }) => `- ${mark === "good" ? "✅ " : mark === "warning" ? "⚠️ " : ""}${textOf(text)}`)
        .join("\n");
    case "lines":
      // Fenced lines are shown as they are; a line of backticks would end the fence, so the fence is longer than any.
      return `${block.label}:\n\n${fenced(block.lines)}`;
    case "table":
      return block.htmlOnly ? "" : tableText(block);
    case "picture":
      return "";
  }
}

function fenced(lines: readonly string[]): string {
  const longest =
    lines
      .join("\n")
      .match(/`+/g)
      ?.reduce((most, run) => Math.max(most, run.length), 0) ?? 0;
  const fence = "`".repeat(Math.max(3, longest + 1));
  return `${fence}text\n${lines.join("\n")}\n${fence}`;
}

function tableText({ caption, columns, rows, note }: Table): string {
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  const head = line(columns.map(({ name }) => pieceText(foreign(name))));
  const rule = `|${columns.map(({ numeric }) => (numeric ? "---:" : "---")).join("|")}|`;
  const body = rows.map((row) => line(row.map(textOf)));
  const under = note === undefined ? "" : `\n\n${textOf(note)}`;
  return `**${caption}**\n\n${[head, rule, ...body].join("\n")}${under}`;
}

function textOf(text: Text): string {
  return text.map((piece, i) => (i === 0 ? unblocked(pieceText(piece), piece) : pieceText(piece))).join("");
}

function pieceText(piece: Piece): string {
  if (typeof piece === "string") return ourText(piece);
  if ("strong" in piece) return `**${ourText(piece.strong)}**`;
  if ("command" in piece) return codeSpan(piece.command);
  if ("code" in piece) return codeSpan(piece.code);
  return escapeMarkdown(piece.foreign);
}

/** Our own sentences hold no markup, but `<` and `|` stand in some of them. */
function ourText(text: string): string {
  return text
    .replace(/[\\|`*]/g, "\\$&")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;");
}

/** Foreign text that opens a line must not open a heading, a list or a rule. */
function unblocked(text: string, piece: Piece): string {
  if (typeof piece === "string" || !("foreign" in piece)) return text;
  return text.replace(/^(\s*)([#+=-])/, "$1\\$2").replace(/^(\s*\d{1,9})([.)])/, "$1\\$2");
}

/** A code span in a table cell: `|` must be escaped even there, and backticks need a longer fence. */
function codeSpan(text: string): string {
  if (text.includes("`")) return escapeMarkdown(text);
  return `\`${text.replaceAll("|", "\\|")}\``;
}

/**
 * Disarm what could become markup inside a line: HTML, entities, emphasis, links, tables.
 * An underscore between letters is none in GitHub's Markdown, so names in prose stay readable.
 */
function escapeMarkdown(text: string, special = /[\\|<>`*[\]~$&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])/g): string {
  return (
    text
      .replace(special, (character) => {
        if (character === "<") return "&lt;";
        if (character === ">") return "&gt;";
        if (character === "&") return "&amp;";
        return `\\${character}`;
      })
      // A bare address would become a link that leads where the donor's author wants.
      .replace(/\b(https?|ftp|www)([:.])/gi, "$1\u200b$2")
      .replaceAll("@", "@\u200b")
  );
}
