import { type ChildProcess, spawn } from "node:child_process";
import { createServer } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { PhysariumError } from "../../errors.js";
import type { BodySpec } from "./engine.js";

/** A large model takes minutes from a slow disk. */
const LOAD_PATIENCE_MS = 600_000;
/** A server that runs elsewhere and does not even take the connection is not waited for as long. */
const CONNECT_PATIENCE_MS = 5_000;

/** llama-server as a process of this one: it listens on loopback and ends with whoever started it. */
export class ServerProcess {
  private constructor(
    readonly address: string,
    private readonly child: ChildProcess,
  ) {}

  get pid(): number {
    return this.child.pid!;
  }

  /**
   * Resolves once the model is there; `onServer` is told the pid before. `key` is what it shall demand: it is told in
   * its environment, where no list of processes shows it. Throws `USAGE_ENGINE` where the program cannot
   * be started or ends.
   */
  static async start(
    path: string,
    args: readonly string[],
    spec: BodySpec,
    key: string | undefined,
    onServer: (pid: number) => void,
  ): Promise<ServerProcess> {
    const port = await freePort();
    const child = spawn(path, [...serverArguments(spec, port), ...args], {
      stdio: ["ignore", "ignore", "inherit"],
      // A key of the surroundings that the farm was not told of would shut it out.
      env: { ...process.env, LLAMA_API_KEY: key },
    });
    if (child.pid !== undefined) onServer(child.pid);
    // Whatever way this process ends, the server does not outlive it.
    const end = (): void => void child.kill("SIGKILL");
    process.on("exit", end);
    let ended: string | undefined;
    child.on("error", (error) => {
      ended = `${path} cannot be started: ${error.message}`;
    });
    child.on("exit", (code, signal) => {
      process.off("exit", end);
      ended ??= `${path} ended (${signal ?? `exit ${code}`})`;
    });
    const address = `http://127.0.0.1:${port}`;
    await awaitModel(address, () => ended, LOAD_PATIENCE_MS);
    return new ServerProcess(address, child);
  }

  onExit(listener: () => void): void {
    this.child.on("exit", listener);
  }

  async stop(): Promise<void> {
    const gone = new Promise((resolve) => this.child.once("exit", resolve));
    if (this.child.exitCode === null && this.child.signalCode === null && this.child.kill("SIGKILL")) await gone;
  }
}

/** Wait for a server that somebody else runs. Throws `USAGE_ENGINE` where none answers. */
export function awaitServer(address: string): Promise<void> {
  return awaitModel(address, () => undefined, CONNECT_PATIENCE_MS);
}

function serverArguments(spec: BodySpec, port: number): string[] {
  const { file, context, sequences, threads, gpuLayers } = spec;
  const numbers = { port, "ctx-size": context * sequences, parallel: sequences, threads, "gpu-layers": gpuLayers };
  const named = Object.entries(numbers).flatMap(([name, value]) => [`--${name}`, String(value)]);
  return ["--model", file, "--host", "127.0.0.1", ...named];
}

/** Until the server says that its model is there; `silenceMs`: how long it may not even take a connection. */
async function awaitModel(address: string, ended: () => string | undefined, silenceMs: number): Promise<void> {
  const begun = Date.now();
  let heardAt = begun;
  for (let wait = 20; Date.now() - begun < LOAD_PATIENCE_MS; wait = Math.min(500, wait * 2)) {
    const reason = ended();
    if (reason !== undefined) throw new PhysariumError("USAGE_ENGINE", reason);
    const response = await fetch(`${address}/health`).catch(() => undefined);
    await response?.body?.cancel();
    if (response?.ok) return;
    if (response !== undefined) heardAt = Date.now();
    else if (Date.now() - heardAt >= silenceMs) break;
    await sleep(wait);
  }
  throw new PhysariumError("USAGE_ENGINE", `${address}: no llama-server with a model answers there; start it`);
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}
