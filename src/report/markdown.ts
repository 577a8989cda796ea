import type { ReportInput } from "./report-input.js";
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
  const head = line(columns.map(({ name }) => (name === "" ? " " : pieceText(foreign(name)))));
  const rule = `|${columns.map(({ numeric }) => (numeric ? "---:" : "---")).join("|")}|`;
  const body = rows.map((row) => line(row.map(textOf)));
  const under = note === undefined ? "" : `\n\n${textOf(note)}`;
  return `**${caption}**\n\n${[head, rule, ...body].join("\n")}${under}`;
}

function textOf(text: Text): string {
  return text.map((piece) => pieceText(piece)).join("");
}

function pieceText(piece: Piece): string {
  if (typeof piece === "string") return escapeMarkdown(piece, /[\\|<>`*]/g);
  if ("strong" in piece) return `**${escapeMarkdown(piece.strong, /[\\|<>`*]/g)}**`;
  if ("command" in piece) return codeSpan(piece.command);
  if ("code" in piece) return codeSpan(piece.code);
  return escapeMarkdown(piece.foreign);
}

/** A code span in a table cell: `|` must be escaped even there, and backticks need a longer fence. */
function codeSpan(text: string): string {
  if (text.includes("`")) return escapeMarkdown(text);
  return `\`${text.replaceAll("|", "\\|")}\``;
}

/** ASCII punctuation that could become markup; HTML is disarmed as entities, which every renderer knows. */
function escapeMarkdown(text: string, special = /[\\|<>`*_[\]{}()#+!&~$-]/g): string {
  return (
    text
      .replace(special, (character) => {
        if (character === "<") return "&lt;";
        if (character === ">") return "&gt;";
        return `\\${character}`;
      })
      // A bare address would become a link that leads where the donor's author wants.
      .replace(/(https?|ftp|www)([:.])/gi, "$1&#8203;$2")
      .replaceAll("@", "@\u200b")
  );
}
