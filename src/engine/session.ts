import { realpathSync } from "node:fs";
import { parse, relative } from "node:path";
import type { InferenceSession, Tensor } from "onnxruntime-node";
import { PhysariumError } from "../errors.js";
import type { OnnxGraph } from "./onnx-graph.js";
import { openRuntime, providersOf, type Runtime, type EngineOptions as RuntimeOptions } from "./runtime.js";

export type { Tensor };
export type Feeds = Record<string, Tensor>;

export interface EngineOptions extends RuntimeOptions {
  /**
   * Build graphs of standard operators alone, without the CPU's fused ones; the rule on other devices. WebGPU's
   * GroupQueryAttention gave wrong numbers past 16 tokens on a software adapter, CUDA's takes half precision only.
   */
  readonly portable?: boolean;
}

/** ONNX Runtime with its device: opens sessions on graphs and makes tensors. */
export class Engine {
  private constructor(
    private readonly runtime: Runtime,
    readonly device: string,
    readonly threads: number,
    /** Graphs must keep to standard operators: see `EngineOptions`. */
    readonly portable: boolean,
  ) {}

  /** Throws what `openRuntime` throws. */
  static async open(options: EngineOptions = {}): Promise<Engine> {
    const { runtime, device, threads } = await openRuntime(options);
    return new Engine(runtime, device, threads, options.portable ?? device !== "cpu");
  }

  get version(): string {
    return this.runtime.env.versions.node ?? this.runtime.env.versions.common;
  }

  /**
   * Open a session on a graph. With `fold`, casts of stored weights happen once, now, and the f32 copy stays in memory
   * in the layout the matrix products like best; without, the weights stay mapped and every run casts what it uses.
   * Weights that the graph reads itself (`OnnxGraph.fromBytes`) lie in memory until the session is closed.
   */
  async session(graph: OnnxGraph, fold: boolean): Promise<Session> {
    const externalData: { path: string; data: Uint8Array }[] = [];
    for (const { path, read } of graph.readIn) externalData.push({ path, data: await read() });
    try {
      const session = await this.runtime.InferenceSession.create(graph.serialize(), {
        ...(externalData.length === 0 ? {} : { externalData }),
        executionProviders: providersOf(this.device),
        intraOpNumThreads: this.threads,
        interOpNumThreads: 1,
        graphOptimizationLevel: fold ? "basic" : "disabled",
        // An arena keeps what a run needed for the next one; where weights are cast in each run that would be all of
        // them.
        enableCpuMemArena: fold,
        // A pattern learnt from one run would hold the memory of all its steps at once.
        enableMemPattern: false,
        // Warnings would name our constants one by one; errors come back as exceptions anyway.
        logSeverityLevel: 3,
        extra: {
          session: {
            model_external_initializers_file_folder_path: EXTERNAL_ROOT,
            // A packed copy of a mapped F32 weight would undo the mapping.
            disable_prepacking: fold ? "0" : "1",
            // Threads that wait for work by spinning take the processor from everybody else: a third of the CPU time of
            // a small model.
            intra_op: { allow_spinning: "0" },
          },
        },
      });
      return new Session(session, graph.inputNames, graph.outputNames);
    } catch (error) {
      if (this.device !== "cpu") {
        throw new PhysariumError(
          "USAGE_DEVICE",
          `--device ${this.device}: the engine cannot use it here: ` +
            `${error instanceof Error ? error.message.trim() : String(error)}; take cpu, or install its driver`,
          { device: this.device },
          error,
        );
      }
      throw new PhysariumError(
        "INTERNAL",
        `the engine refused a graph of ours: ${error instanceof Error ? error.message : String(error)}`,
        {},
        error,
      );
    }
  }

  f32(data: Float32Array, dims: readonly number[]): Tensor {
    return new this.runtime.Tensor("float32", data, dims);
  }

  i32(data: Int32Array, dims: readonly number[]): Tensor {
    return new this.runtime.Tensor("int32", data, dims);
  }

  i64(data: BigInt64Array, dims: readonly number[]): Tensor {
    return new this.runtime.Tensor("int64", data, dims);
  }
}

/**
 * One open graph. `run` takes from `feeds` what the graph has as inputs, and gives the outputs asked for (all by
 * default). Outputs may be asked for with tensors to write them into; `null` leaves one to the engine.
 */
export class Session {
  constructor(
    private readonly session: InferenceSession,
    private readonly inputNames: readonly string[],
    private readonly outputNames: readonly string[],
  ) {}

  async run(
    feeds: Feeds,
    outputs: readonly string[] | Readonly<Record<string, Tensor | null>> = this.outputNames,
  ): Promise<Feeds> {
    try {
      const taken = Object.fromEntries(this.inputNames.map((name) => [name, feeds[name]]));
      return await this.session.run(taken, outputs);
    } catch (error) {
      throw new PhysariumError(
        "INTERNAL",
        `the engine failed in a forward pass: ${error instanceof Error ? error.message : String(error)}`,
        {},
        error,
      );
    }
  }

  close(): Promise<void> {
    return this.session.release();
  }
}

/** The f32 numbers of an output tensor. */
export function floats(tensor: Tensor): Float32Array {
  return tensor.data as Float32Array;
}

/**
 * The engine takes external data only inside one folder, so that folder is the file system's root and every file is
 * named from there. A hub cache is made of symbolic links: they are resolved first, for the engine compares resolved
 * paths too.
 */
const EXTERNAL_ROOT = parse(process.cwd()).root;

export function externalLocation(path: string): string {
  return relative(EXTERNAL_ROOT, realpathSync(path));
}
