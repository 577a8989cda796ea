import { workerData } from "node:worker_threads";
import { serveJobs } from "../../threads/serve.js";
import type { BandFilesSetup } from "../band-files.js";
import { Conversion } from "./conversion.js";

const conversion = new Conversion(workerData as BandFilesSetup);
serveJobs(conversion.handle, () => conversion.close());
