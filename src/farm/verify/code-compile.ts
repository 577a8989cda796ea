import { Script } from "node:vm";
import type { Organ } from "../config/organ-farm.js";
import { runProgram } from "./run-program.js";
import { type Verifier, verdict } from "./verdict.js";

type Language = NonNullable<Organ["language"]>;

const NAMES: ReadonlyMap<string, Language> = new Map(
  Object.entries({
    js: "javascript",
    javascript: "javascript",
    mjs: "javascript",
    json: "json",
    py: "python",
    python: "python",
    python3: "python",
  } as const),
);

const FENCE = /^```([\w+-]*)[^\n]*\n([\s\S]*?)^```/m;
const TIMEOUT_MS = 10_000;

/** The answer's code parses. It is never run. Code stands in the first fence, or is the whole answer. */
export function codeCompile(fallback: Language = "javascript"): Verifier {
  return async ({ answer }, signal) => {
    const fence = FENCE.exec(answer);
    const code = fence?.[2] ?? answer;
    const named = fence?.[1].toLowerCase() ?? "";
    const language = named === "" ? fallback : NAMES.get(named);
    if (language === undefined)
      return verdict("code_compile", `nobody here parses ${named}; known are javascript, json, python`);
    if (code.trim() === "") return verdict("code_compile", "there is no code in the answer");
    return verdict("code_compile", await parseFault(language, code, signal));
  };
}

async function parseFault(language: Language, code: string, signal: AbortSignal): Promise<string | undefined> {
  if (language === "json") {
    try {
      JSON.parse(code);
      return undefined;
    } catch (error) {
      return (error as Error).message;
    }
  }
  if (language === "javascript") {
    try {
      // Compiling parses; only `runIn…` would run it.
      new Script(code);
      return undefined;
    } catch (error) {
      if (!/\b(import|export|await)\b/.test(code)) return `${(error as Error).name}: ${(error as Error).message}`;
    }
    // A module is another grammar, and this thread has no parser for it.
    return parserFault([process.execPath, "--check", "--input-type=module", "-"], code, signal);
  }
  const program = "import ast, sys; ast.parse(sys.stdin.buffer.read())";
  return parserFault(["python3", "-I", "-S", "-c", program], code, signal);
}

async function parserFault(command: readonly string[], code: string, signal: AbortSignal): Promise<string | undefined> {
  const { status, error, output } = await runProgram(command, code, TIMEOUT_MS, signal);
  if (status === 0) return undefined;
  const lines = output
    .trim()
    .split("\n")
    .filter((line) => /error/i.test(line));
  return error ?? lines.at(-1) ?? "the parser refused it";
}
