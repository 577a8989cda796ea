import { parentPort, workerData } from "node:worker_threads";
import { nodeFiles } from "../checkpoint/file-layer.js";
import { toPlainError } from "../errors.js";
import { DRIVE_BINS } from "../flow/drive-histogram.js";
import { PieceOperator } from "./piece-operator.js";
import type { FromWorker, ToWorker, WorkerSetup } from "./protocol.js";

const port = parentPort!;
const send = (message: FromWorker) => port.postMessage(message);

const { module, operator: setup } = workerData as WorkerSetup;
const operator = await PieceOperator.create(module, setup, nodeFiles);

port.on("message", (message: ToWorker) => {
  if (message.type === "histogram") {
    const histogram = new Float64Array(DRIVE_BINS);
    operator.takeHistogram(histogram);
    send({ type: "histogram", histogram });
    return;
  }
  operator.run(message.job, message.slot).then(
    (result) => send({ type: "result", result, slot: message.slot }),
    (error: unknown) => send({ type: "failed", error: toPlainError(error) }),
  );
});
send({ type: "ready" });
