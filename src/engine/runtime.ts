import { availableParallelism } from "node:os";
import { isMainThread } from "node:worker_threads";
import { PhysariumError } from "../errors.js";

export type Runtime = typeof import("onnxruntime-node");

/** Where matrix products are computed: flags of every command that runs a model. */
export interface EngineOptions {
  /** `cpu` (default) or another backend that the installed engine lists: `webgpu`, `cuda`. */
  readonly device?: string;
  /** Threads of one operator, 1 to `MAX_THREADS`; default all cores the process may use. */
  readonly threads?: number;
}

/** A runtime that is loaded, and what it was asked to run on. */
export interface OpenRuntime {
  readonly runtime: Runtime;
  readonly device: string;
  readonly threads: number;
}

/**
 * No machine known has more hardware threads than this; every one asked for is started, so a slip of the finger must
 * not start 100,000.
 */
export const MAX_THREADS = 1024;

/**
 * The one way to ONNX Runtime, taken only when a model is to run: it is an optional dependency, and surgery of weights
 * alone never needs it.
 *
 * Throws `USAGE_ENGINE_MISSING` where it is not installed, `USAGE_ENGINE` where it is but cannot be loaded here,
 * `USAGE_DEVICE` for a device that it does not list, `USAGE_THREADS` for a count of threads that cannot be.
 */
export async function openRuntime(options: EngineOptions = {}): Promise<OpenRuntime> {
  const { device = "cpu", threads = Math.min(availableParallelism(), MAX_THREADS) } = options;
  if (!Number.isInteger(threads) || threads < 1 || threads > MAX_THREADS) {
    throw new PhysariumError(
      "USAGE_THREADS",
      `--threads ${threads}: expected a whole number from 1 to ${MAX_THREADS}`,
      {
        threads,
      },
    );
  }
  const runtime = await loadRuntime();
  const backends = runtime.listSupportedBackends().map(({ name }) => name);
  if (!backends.includes(device)) {
    throw new PhysariumError(
      "USAGE_DEVICE",
      `--device ${device}: the installed engine lists ${backends.join(", ")}; take one of these`,
      { device, backends },
    );
  }
  return { runtime, device, threads };
}

/** What a session may use, best first: operators that the device lacks run on the CPU. */
export function providersOf(device: string): string[] {
  return device === "cpu" ? ["cpu"] : [device, "cpu"];
}

/**
 * The runtime's own library sends events to its maker, keeps an id of the machine in the home folder and writes a log
 * into the temporary one, unless `ORT_DISABLE_TELEMETRY` is 1 when it is loaded. So it is, whatever the user's
 * environment says; who wants the events sets `PHYSARIUM_ORT_TELEMETRY=1`.
 *
 * The library asks the process, not JavaScript: a thread's `process.env` is a copy that it never sees. Our threads
 * start behind an engine of the main thread, so the process is told by then; a thread of somebody else's in a process
 * that was not told is refused.
 * source: onnxruntime 1.30.0, core/platform/posix/telemetry.cc
 */
function silenceTelemetry(): void {
  if (process.env.PHYSARIUM_ORT_TELEMETRY === "1" || process.env[SILENCE] === "1") return;
  if (!isMainThread) {
    throw new PhysariumError(
      "USAGE_ENGINE",
      `a worker thread cannot keep the engine from sending telemetry; set ${SILENCE}=1 in the main thread before ` +
        "the worker starts",
    );
  }
  process.env[SILENCE] = "1";
}

const SILENCE = "ORT_DISABLE_TELEMETRY";

async function loadRuntime(): Promise<Runtime> {
  silenceTelemetry();
  try {
    return await import("onnxruntime-node");
  } catch (cause) {
    const why = cause instanceof Error ? cause.message.split("\n")[0] : String(cause);
    const code = (cause as { code?: unknown }).code;
    if (code === "ERR_MODULE_NOT_FOUND" || code === "MODULE_NOT_FOUND") {
      throw new PhysariumError(
        "USAGE_ENGINE_MISSING",
        "running a model needs onnxruntime-node, which is not installed; run: npm install --ignore-scripts " +
          "onnxruntime-node@1.30.0",
        {},
        cause,
      );
    }
    throw new PhysariumError(
      "USAGE_ENGINE",
      `onnxruntime-node is installed but cannot be loaded here: ${why}; look at the limits of this process (ulimit ` +
        "-v, ulimit -n), or install it anew",
      {},
      cause,
    );
  }
}
