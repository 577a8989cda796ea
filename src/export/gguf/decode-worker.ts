import { serveJobs } from "../../threads/serve.js";
import { type DecodeJob, type DecodeResult, decodeRows } from "./import-conversion.js";

serveJobs<DecodeJob, DecodeResult>(async (job) => decodeRows(job));
