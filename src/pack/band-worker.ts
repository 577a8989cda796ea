import { parentPort } from "node:worker_threads";
import { toPlainError } from "../errors.js";
import type { BandReply, BandTask } from "./band-protocol.js";
import { BandTasks } from "./band-tasks.js";

/** One thread of a `BandPool`. It gets one task at a time. */
const port = parentPort!;
const tasks = await BandTasks.create();

port.on("message", (task: BandTask) => {
  tasks.run(task).then(
    (result) =>
      port.postMessage(
        { ...(result && { result }) } satisfies BandReply,
        result ? [result.bytes.buffer as ArrayBuffer] : [],
      ),
    (error) => port.postMessage({ error: toPlainError(error) } satisfies BandReply),
  );
});
