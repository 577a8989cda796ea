import { spawn } from "node:child_process";

export interface Ran {
  readonly status: number | null;
  /** Why it did not end by itself. */
  readonly error: string | undefined;
  /** The end of what it wrote. */
  readonly output: string;
}

/** Of what a program writes, so much is kept. */
const MAX_OUTPUT = 65_536;

/**
 * Run a program with text on its stdin: no shell, an empty environment but for the PATH, a time limit after which it
 * and what it started is killed.
 */
export function runProgram(
  [program, ...args]: readonly string[],
  input: string,
  timeoutMs: number,
  signal: AbortSignal,
  cwd?: string,
): Promise<Ran> {
  return new Promise((resolve) => {
    const child = spawn(program, args, {
      shell: false,
      detached: true,
      stdio: ["pipe", "pipe", "pipe"],
      env: { PATH: process.env.PATH ?? "" },
      ...(cwd === undefined ? {} : { cwd }),
    });
    let output = "";
    let error: string | undefined;
    const keep = (text: string): void => {
      output = (output + text).slice(-MAX_OUTPUT);
    };
    const kill = (why: string): void => {
      error ??= why;
      try {
        // Its group, so that nothing it started is left.
        if (child.pid !== undefined) process.kill(-child.pid, "SIGKILL");
      } catch {
        // Gone already.
      }
    };
    const timer = setTimeout(() => kill(`no end within ${timeoutMs} ms`), timeoutMs);
    const leave = (): void => kill("the client left");
    signal.addEventListener("abort", leave, { once: true });
    child.stdout.setEncoding("utf8").on("data", keep);
    child.stderr.setEncoding("utf8").on("data", keep);
    // It need not read what it is given.
    child.stdin.on("error", () => {});
    child.stdin.end(input);
    let isOver = false;
    const end = (status: number | null): void => {
      if (isOver) return;
      isOver = true;
      clearTimeout(timer);
      signal.removeEventListener("abort", leave);
      resolve({ status: error === undefined ? status : null, error, output });
    };
    child.once("error", (failure) => {
      error ??= `${program} cannot be started: ${failure.message}`;
      end(null);
    });
    child.once("close", end);
  });
}
