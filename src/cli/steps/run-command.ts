import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { PhysariumError } from "../../errors.js";
import { shellQuote } from "../../report/report-text.js";
import { emitEvent, tellsEvents } from "../events.js";
import { listen } from "../stop-signal.js";

const MAIN = fileURLToPath(new URL("../main.js", import.meta.url));

/** The line of a command's error, as people or as readers of `--json` get it. */
const OWN_ERROR = /^(?:physarium: .*\[[A-Z_]+\]|\{"event":"error",.*\})\n/m;

/** A command as one would type it. */
export function commandLine(args: readonly string[]): string {
  return ["physarium", ...args].map((word) => (word === "" ? "''" : shellQuote(word))).join(" ");
}

export interface RunOptions {
  /** `show`: its output goes to ours. `json`: it is asked for JSON, and that is what comes back. `text`: as it is. */
  readonly output: "show" | "json" | "text";
  readonly quiet: boolean;
  /** Exit codes beside 0 that are an answer, not a failure. */
  readonly answers?: readonly number[];
}

/** What a command that was run answered. */
export interface Answer {
  readonly exit: number;
  readonly output: string;
}

/**
 * Run one of our own commands in a process of its own, as if it had been typed; it is printed first. Ctrl-C reaches it,
 * too, and it keeps what it keeps.
 *
 * Throws `STOPPED` where a signal ended it, and the command's own error where it failed.
 */
export async function runCommand(
  args: readonly string[],
  { output, quiet, answers = [] }: RunOptions,
): Promise<Answer> {
  const more = [...(output === "json" ? ["--json"] : []), ...(tellsEvents() ? ["--events"] : quiet ? ["--quiet"] : [])];
  emitEvent("command", { line: commandLine(args) });
  if (!quiet && !tellsEvents()) process.stderr.write(`$ ${commandLine(args)}\n`);
  const child = spawn(process.execPath, [MAIN, ...args, ...more], {
    stdio: ["ignore", output === "show" ? (quiet ? "ignore" : 2) : "pipe", "pipe"],
  });
  let text = "";
  let errors = "";
  child.stdout?.setEncoding("utf8").on("data", (piece: string) => {
    text += piece;
  });
  child.stderr!.setEncoding("utf8").on("data", (piece: string) => {
    errors = (errors + piece).slice(-20_000);
    // Its error is ours to tell, once.
    if (!quiet || tellsEvents()) process.stderr.write(piece.replace(OWN_ERROR, ""));
  });
  // While a child works, a signal is its business; it ends, and then we do.
  const giveBack = listen((name) => child.kill(name));
  try {
    const [exit, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((resolve, reject) => {
      child.on("error", reject);
      child.on("close", (code, name) => resolve([code, name]));
    });
    if (signal !== null || exit === 130) {
      throw new PhysariumError("STOPPED", "stopped; give the same command again to go on from here");
    }
    if (exit === 0 || answers.includes(exit ?? -1)) return { exit: exit ?? 0, output: text };
    throw failureOf(args, exit ?? 70, errors);
  } finally {
    giveBack();
  }
}

/** The error of the command that failed, in its own words. */
function failureOf(args: readonly string[], exit: number, errors: string): PhysariumError {
  const plain = /^physarium: (.*) \[([A-Z_]+)\]$/m.exec(errors);
  if (plain !== null) return new PhysariumError(plain[2], plain[1], { command: commandLine(args) });
  for (const line of errors.split("\n")) {
    const json = line.startsWith("{") ? (safely(line) as { code?: string; message?: string } | undefined) : undefined;
    if (json?.code !== undefined) {
      return new PhysariumError(json.code, json.message ?? "", { command: commandLine(args) });
    }
  }
  const last = errors.trim().split("\n").slice(-3).join(" ");
  return new PhysariumError("INTERNAL", `${commandLine(args)} ended with exit code ${exit}: ${last}`, { exit });
}

function safely(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
