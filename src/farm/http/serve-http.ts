import { createServer } from "node:http";
import { serve } from "@hono/node-server";
import { PhysariumError } from "../../errors.js";
import { writeSmallFile } from "../../output/small-file.js";
import type { FarmService } from "../serve/farm-service.js";
import { startOf } from "../serve/tier-state.js";
import { farmApp } from "./app.js";

export interface ListenOptions {
  readonly host: string;
  readonly port: number;
  readonly apiKey: string | undefined;
  readonly corsOrigin: string | undefined;
}

const LOOPBACK = new Set(["127.0.0.1", "::1", "localhost"]);
const MAX_HEADER_BYTES = 16_384;
/** A client that sends its request byte by byte. */
const REQUEST_TIMEOUT_MS = 60_000;

/** Refuse before anything is loaded. Throws `USAGE_API_KEY` for an address that others reach and no key. */
export function requireKey({ host, apiKey }: ListenOptions): void {
  if (LOOPBACK.has(host) || apiKey !== undefined) return;
  throw new PhysariumError(
    "USAGE_API_KEY",
    `--host ${host} lets others in; give --api-key (or PHYSARIUM_FARM_KEY), or listen on 127.0.0.1`,
    { host },
  );
}

/** Listen; resolves to the address and what ends it. Throws `USAGE_ADDRESS` where that is not possible. */
export async function listen(
  service: FarmService,
  options: ListenOptions,
): Promise<{ address: string; close(): Promise<void> }> {
  requireKey(options);
  const { host, port, apiKey, corsOrigin } = options;
  const hosts = LOOPBACK.has(host) ? new Set(["127.0.0.1", "[::1]", "localhost"]) : undefined;
  const app = farmApp(service, { apiKey, hosts, corsOrigin });
  const server = await new Promise<ReturnType<typeof serve>>((resolve, reject) => {
    const made = serve(
      {
        fetch: app.fetch,
        hostname: host,
        port,
        createServer,
        serverOptions: { maxHeaderSize: MAX_HEADER_BYTES, requestTimeout: REQUEST_TIMEOUT_MS, headersTimeout: 20_000 },
      },
      () => resolve(made),
    );
    made.once("error", (error: NodeJS.ErrnoException) =>
      reject(
        new PhysariumError(
          "USAGE_ADDRESS",
          `${host}:${port}: ${error.message}; give another --port`,
          { host, port },
          error,
        ),
      ),
    );
  });
  const { port: actual } = server.address() as { port: number };
  const name = host.includes(":") ? `[${host}]` : host === "0.0.0.0" ? "127.0.0.1" : host;
  const address = `http://${name}:${actual}`;
  const started = await startOf(process.pid);
  await writeSmallFile(service.options.state.serving, `${JSON.stringify({ address, pid: process.pid, started })}\n`);
  return {
    address,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        // Streams of events end with the farm.
        if ("closeAllConnections" in server) setTimeout(() => server.closeAllConnections(), 500);
      }),
  };
}
