import { workerData } from "node:worker_threads";
import { nodeFiles } from "../checkpoint/file-layer.js";
import { serveJobs } from "../threads/serve.js";
import { Auditor } from "./auditor.js";

const { module, slots } = workerData as { module: WebAssembly.Module; slots: number };
serveJobs(new Auditor(module, slots, nodeFiles).handle);
