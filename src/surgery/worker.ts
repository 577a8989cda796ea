import { workerData } from "node:worker_threads";
import { nodeFiles } from "../checkpoint/file-layer.js";
import { serveJobs } from "../threads/serve.js";
import { PieceOperator } from "./piece-operator.js";
import type { WorkerSetup } from "./protocol.js";

const { module, operator: setup } = workerData as WorkerSetup;
const operator = await PieceOperator.create(module, setup, nodeFiles);
serveJobs(operator.handle, () => operator.close());
