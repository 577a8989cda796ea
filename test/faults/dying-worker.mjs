import { workerData } from "node:worker_threads";
import { serveJobs } from "../../dist/threads/serve.js";

if (workerData === "cannot start") throw new Error("no room to start");
serveJobs(async (job) => {
  if (job === "exit") process.exit(7);
  if (job === "throw")
    setTimeout(() => {
      throw new Error("thrown outside a job");
    });
  if (job === "reject") throw new Error("the job failed");
  if (job === "no answer can be sent") return () => {};
  return job === "wait" ? new Promise(() => {}) : job;
});
