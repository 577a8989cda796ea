import { readFile } from "node:fs/promises";
import { PhysariumError } from "../../errors.js";
import type { StateFolder } from "../state/state-folder.js";
import { startOf } from "./tier-state.js";

/** Where the farm of a folder listens, or `undefined` where no server is at work. */
export async function serverOf(state: StateFolder): Promise<{ address: string; pid: number } | undefined> {
  const text = await readFile(state.serving, "utf8").catch(() => undefined);
  if (text === undefined) return undefined;
  try {
    const { address, pid, started } = JSON.parse(text) as { address: string; pid: number; started: string };
    // Of a server that was killed the file stays; its pid may be anybody's now.
    return (await startOf(pid)) === started ? { address, pid } : undefined;
  } catch {
    return undefined;
  }
}

/** Ask the farm's own server. Throws `USAGE_FARM_NOT_RUNNING`, `IO_FARM` with what it answered. */
export async function askServer<T>(
  state: StateFolder,
  path: string,
  apiKey: string | undefined,
  post = false,
): Promise<T> {
  const server = await serverOf(state);
  if (server === undefined) {
    throw new PhysariumError(
      "USAGE_FARM_NOT_RUNNING",
      `${state.path}: no server of this farm is at work; physarium farm serve`,
      {
        path: state.path,
      },
    );
  }
  const key: Record<string, string> = apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` };
  const response = await fetch(`${server.address}${path}`, {
    method: post ? "POST" : "GET",
    headers: { "content-type": "application/json", ...key },
    ...(post ? { body: "{}" } : {}),
  }).catch((error: Error) => {
    throw new PhysariumError("IO_FARM", `${server.address}: ${error.message}`, {}, error);
  });
  const value = (await response.json()) as T & { error?: { message: string; code: string } };
  if (response.ok) return value;
  const { message = `HTTP ${response.status}`, code } = value.error ?? {};
  throw new PhysariumError("IO_FARM", `${server.address}: ${message}`, { status: response.status, code });
}
