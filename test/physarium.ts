import { type ChildProcess, spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

export const MAIN = fileURLToPath(new URL("../dist/cli/main.js", import.meta.url));

export interface Ended {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly seconds: number;
}

export interface SpawnOptions {
  readonly env?: Record<string, string>;
  /** Modules loaded before the command line. */
  readonly preload?: URL;
  /** Called with every piece of stderr as it comes. */
  readonly onStderr?: (text: string, child: ChildProcess) => void;
  readonly onStart?: (child: ChildProcess) => void;
}

/** Run the built command line in a process of its own. */
export function physarium(args: readonly string[], options: SpawnOptions = {}): Promise<Ended> {
  const preload = options.preload === undefined ? [] : ["--import", options.preload.href];
  const started = performance.now();
  const child = spawn(process.execPath, [...preload, MAIN, ...args], {
    env: { ...process.env, ...options.env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  options.onStart?.(child);
  let stdout = "";
  let stderr = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
    options.onStderr?.(text, child);
  });
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (status, signal) =>
      resolve({ status, signal, stdout, stderr, seconds: (performance.now() - started) / 1000 }),
    );
  });
}

/** The JSON lines among what a run with `--json` wrote to stderr. */
export function eventsOf(stderr: string): { event: string; [member: string]: unknown }[] {
  return stderr
    .split("\n")
    .filter((line) => line.startsWith("{"))
    .map((line) => JSON.parse(line));
}
