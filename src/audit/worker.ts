import { workerData } from "node:worker_threads";
import { nodeFiles } from "../checkpoint/file-layer.js";
import { serveJobs } from "../threads/serve.js";
import type { AuditSetup } from "./audit-jobs.js";
import { type AuditModules, Auditor } from "./auditor.js";

const { modules, setup } = workerData as { modules: AuditModules; setup: AuditSetup };
const auditor = new Auditor(modules, setup, nodeFiles);
serveJobs(auditor.handle, () => auditor.close());
