import { workerData } from "node:worker_threads";
import { serveJobs } from "../../threads/serve.js";
import { openOnnxEngine } from "../onnx-engine.js";
import type { BlockResult } from "./block.js";
import { BlockDesk, type BlockTask, type BlockWorkerSetup } from "./runner.js";

const engine = await openOnnxEngine((workerData as BlockWorkerSetup).engineThreads);
let desk: BlockDesk | undefined;
/** A thread has one arena: tasks take turns. */
let turn: Promise<unknown> = Promise.resolve();

serveJobs<BlockTask, BlockResult | undefined>((task) => {
  const result = turn.then(() => run(task));
  turn = result.catch(() => {});
  return result;
});

async function run(task: BlockTask): Promise<BlockResult | undefined> {
  if (task.kind === "block") return desk!.operate(task.block);
  await desk?.close();
  desk = undefined;
  if (task.kind === "open") {
    // The engine takes no memory that is shared between threads.
    desk = await BlockDesk.open(engine, { ...task.setup, coupling: task.setup.coupling.slice() });
  }
  return undefined;
}
