import { serveJobs } from "../threads/serve.js";
import { BandTasks } from "./band-tasks.js";

const tasks = await BandTasks.create();
serveJobs(tasks.handle, async () => {
  await tasks.handle({ kind: "close" });
});
