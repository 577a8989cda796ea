import { workerData } from "node:worker_threads";
import { serveJobs } from "../threads/serve.js";
import type { BandSetup } from "./band-protocol.js";
import { BandTasks } from "./band-tasks.js";

const tasks = new BandTasks(workerData as BandSetup);
serveJobs(tasks.handle, () => tasks.close());
