import { serveJobs } from "../../threads/serve.js";
import { type ConversionJob, type ConversionResult, converter } from "./conversion.js";

const convert = converter();
serveJobs<ConversionJob, ConversionResult>(async (job) => convert(job));
