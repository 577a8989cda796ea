// docs/errors.md: every error code in src/, made of the places that throw it.
//
//   node scripts/error-codes.mjs            print the page
//   node scripts/error-codes.mjs --write    write docs/errors.md
//
// A message of ours says where, what was found, what was expected and what helps, so it is what the page shows; what
// stands in ${…} becomes "…".
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const PAGE = join(ROOT, "docs/errors.md");
/** Families in the order of their exit codes, as `exitCodeOf` in src/errors.ts has them. */
const FAMILIES = [
  ["USAGE", 2, "what was asked for cannot be: options, paths, places. Nothing was written"],
  ["DONOR", 3, "something about the model that is read"],
  ["VERIFY", 4, "an output, a record or an answer is not what it should be"],
  ["IO", 5, "the system refuses: disks, permissions, the engine"],
  ["HUB", 5, "the Hub refuses, or answers otherwise than it should"],
];
const OTHERS = [
  ["STOPPED", 130, "Ctrl-C or another signal: the message says what was kept and how to go on"],
  ["INTERNAL", 70, "a bug of ours: please report it with the stack that is printed"],
];
const CODE = new RegExp(
  `^(?:(?:${FAMILIES.map(([name]) => name).join("|")}|WARN)_[A-Z0-9_]*[A-Z0-9]|STOPPED|INTERNAL)$`,
);
const MOST_MESSAGES = 4;
/** Codes whose sentence is put together where it is thrown. */
const ELSEWHERE = "put together where it is thrown";
const MEANINGS = {
  USAGE_RECIPE:
    "the recipe is no YAML, lacks `model` or `output`, or names a step or an option that there is not; physarium run --help shows one",
  USAGE_REQUEST: "llama-server cannot do what was asked; what it said follows",
  DONOR_GGUF_SPLIT: "parts of a split GGUF model are missing or do not belong together; which, and what helps, follows",
  DONOR_GGUF_TENSOR: "a tensor of the GGUF file is not as its architecture has it; what was found and expected follows",
  DONOR_HEADER_JSON:
    "the header of a safetensors file is no JSON as the format asks; where follows; download the file again",
  DONOR_PACK_LAYOUT: "a packed file breaks its layout; it is damaged, copy or download it again",
  VERIFY_SIGNATURE: "the signature is missing, none of the key that was given, or cannot be read",
  IO_FAILED: "the system refused what was tried; its own words follow",
  IO_FARM: "the farm's server cannot be reached, or refused; its own words follow",
  WARN_TIED_HEAD: "config.json ties the head to the embedding, and the file holds another head: the file's is used",
  WARN_TWO_MODELS:
    "model.safetensors lies beside an index of other shards; loaders take the single file, and so does physarium",
};

/** Code → its messages and files. */
export function errorCodes() {
  const found = new Map();
  for (const name of readdirSync(join(ROOT, "src"), { recursive: true, encoding: "utf8" }).sort()) {
    if (!name.endsWith(".ts")) continue;
    const file = `src/${name.replaceAll("\\", "/")}`;
    const source = ts.createSourceFile(file, readFileSync(join(ROOT, file), "utf8"), ts.ScriptTarget.Latest, true);
    visit(source, source, file, found);
  }
  return found;
}

function visit(node, source, file, found) {
  if (ts.isStringLiteralLike(node) && CODE.test(node.text)) {
    const entry = found.get(node.text) ?? { messages: new Set(), files: new Set() };
    found.set(node.text, entry);
    entry.files.add(file);
    for (const message of messagesOf(node, source)) entry.messages.add(message);
  }
  ts.forEachChild(node, (child) => visit(child, source, file, found));
}

/** The texts beside a code: the next argument of a call, the next of a list, or the `message` of the same object. */
function messagesOf(node, source) {
  let inner = node;
  // A code may be chosen: `isSmall ? "USAGE_A" : "USAGE_B"`.
  while (ts.isConditionalExpression(inner.parent) || ts.isParenthesizedExpression(inner.parent)) inner = inner.parent;
  const { parent } = inner;
  const beside = (list) => (list.includes(inner) ? list[list.indexOf(inner) + 1] : undefined);
  if (ts.isNewExpression(parent) || ts.isCallExpression(parent)) {
    const message = beside([...(parent.arguments ?? [])]);
    return message !== undefined && ts.isIdentifier(message) ? passedTo(message, source) : wordsOf(message);
  }
  if (ts.isArrayLiteralExpression(parent)) return wordsOf(beside([...parent.elements]));
  if (ts.isPropertyAssignment(parent) && ts.isObjectLiteralExpression(parent.parent)) {
    const message = parent.parent.properties.find((each) => each.name?.getText() === "message");
    return message !== undefined && ts.isPropertyAssignment(message) ? wordsOf(message.initializer) : [];
  }
  return [];
}

/** A message that is a parameter: what the function is called with in its file. */
function passedTo(parameter, source) {
  let maker = parameter.parent;
  while (maker !== undefined && !ts.isFunctionLike(maker)) maker = maker.parent;
  const at = maker?.parameters.findIndex(({ name }) => name.getText() === parameter.text) ?? -1;
  const name =
    maker?.name ??
    (maker?.parent !== undefined && ts.isVariableDeclaration(maker.parent) ? maker.parent.name : undefined);
  if (at < 0 || name === undefined) return [];
  const found = [];
  const search = (node) => {
    if (ts.isCallExpression(node) && node.expression.getText().split(".").at(-1) === name.getText()) {
      found.push(...wordsOf(node.arguments[at]));
    }
    ts.forEachChild(node, search);
  };
  search(source);
  return found;
}

function wordsOf(node) {
  if (node === undefined) return [];
  if (ts.isConditionalExpression(node)) return [...wordsOf(node.whenTrue), ...wordsOf(node.whenFalse)];
  const words = textOf(node)
    ?.replace(/\s+/g, " ")
    .replace(/…(?:\s*…)+/g, "…")
    .trim();
  // Names and numbers alone say nothing, and a code is no message.
  return words === undefined || words.replace(/[^A-Za-z]/g, "").length < 8 || CODE.test(words) ? [] : [words];
}

function textOf(node) {
  if (ts.isStringLiteralLike(node)) return node.text;
  if (ts.isTemplateExpression(node)) {
    return node.head.text + node.templateSpans.map(({ literal }) => `…${literal.text}`).join("");
  }
  if (ts.isParenthesizedExpression(node)) return textOf(node.expression);
  if (ts.isBinaryExpression(node) && node.operatorToken.kind === ts.SyntaxKind.PlusToken) {
    return `${textOf(node.left) ?? "…"}${textOf(node.right) ?? "…"}`;
  }
  return undefined;
}

function row(code, { messages, files }) {
  const sorted = [...messages].sort((a, b) => b.length - a.length);
  const shown = sorted.slice(0, MOST_MESSAGES).map(cell);
  const more = sorted.length > MOST_MESSAGES ? [`and ${sorted.length - MOST_MESSAGES} others`] : [];
  const words = shown.length === 0 ? [cell(MEANINGS[code] ?? ELSEWHERE)] : [...shown, ...more];
  const where = [...files].slice(0, 3).map((file) => `\`${file.replace("src/", "")}\``);
  return `| \`${code}\` | ${words.join("<br>")} | ${where.join(", ")}${files.size > 3 ? ` and ${files.size - 3} more` : ""} |`;
}

function cell(text) {
  return text.replace(/[|<>*_[\]`\\]/g, (character) => (character === "|" ? "\\|" : `\\${character}`));
}

export function renderErrors() {
  const codes = errorCodes();
  const lines = [
    "# Error codes",
    "",
    "<!-- made by node scripts/error-codes.mjs --write; do not edit -->",
    "",
    "Every refusal is one sentence and a code, as `… [USAGE_ARGUMENT]`, and says what helps. With `--json` the last line on stderr is",
    '`{"event":"error","code","message","details"}`. The exit code is the family\'s; where the same command may get through without any change it is 75 instead',
    "(`details.retry`), for schedulers. Below, … stands for names and numbers.",
    "",
    "| exit | codes | what it is |",
    "|--:|---|---|",
    ...FAMILIES.map(([name, exit, words]) => `| ${exit} | \`${name}_*\` | ${words} |`),
    ...OTHERS.map(([name, exit, words]) => `| ${exit} | \`${name}\` | ${words} |`),
    "",
  ];
  for (const [family, exit] of FAMILIES) {
    lines.push(`## ${family}, exit ${exit}`, "", "| code | what it says | thrown in |", "|---|---|---|");
    const names = [...codes.keys()].filter((code) => code.startsWith(`${family}_`)).sort();
    lines.push(...names.map((code) => row(code, codes.get(code))), "");
  }
  lines.push(
    "## Warnings",
    "",
    "They end nothing; ledger and report keep them.",
    "",
    "| code | what it says | given in |",
  );
  lines.push("|---|---|---|");
  const warnings = [...codes.keys()].filter((code) => code.startsWith("WARN_")).sort();
  lines.push(...warnings.map((code) => row(code, codes.get(code))));
  return `${lines.join("\n")}\n`;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  if (process.argv.includes("--write")) writeFileSync(PAGE, renderErrors());
  else process.stdout.write(renderErrors());
}
