import { workerData } from "node:worker_threads";
import { serveJobs } from "../../threads/serve.js";
import type { BandFilesSetup } from "../band-files.js";
import { Decoding } from "./import-conversion.js";

const decoding = new Decoding(workerData as BandFilesSetup);
serveJobs(decoding.handle, () => decoding.close());
