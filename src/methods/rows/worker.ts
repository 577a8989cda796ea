import { workerData } from "node:worker_threads";
import { openOnnxEngine } from "../../engine/onnx-products.js";
import { toPlainError } from "../../errors.js";
import { serveJobs } from "../../threads/serve.js";
import { type BlockAnswer, BlockDesk, type BlockTask, type BlockWorkerSetup } from "./runner.js";

const { engineThreads, stop } = workerData as BlockWorkerSetup;
const engine = await openOnnxEngine({ threads: engineThreads });
const signal = {
  get aborted(): boolean {
    return Atomics.load(stop, 0) === 1;
  },
};
let desk: BlockDesk | undefined;
/** A thread has one arena: tasks take turns. */
let turn: Promise<unknown> = Promise.resolve();

serveJobs<BlockTask, BlockAnswer>((task) => {
  const answer = turn.then(() => run(task)).catch((error: unknown) => ({ failure: toPlainError(error) }));
  turn = answer;
  return answer;
});

async function run(task: BlockTask): Promise<BlockAnswer> {
  if (task.kind === "block") return { result: await desk!.operate(task.block) };
  await desk?.close();
  desk = undefined;
  if (task.kind === "open") {
    // The engine takes no memory that is shared between threads.
    desk = await BlockDesk.open(engine, { ...task.setup, coupling: task.setup.coupling.slice() }, signal);
  }
  return {};
}
