import { serveJobs } from "../threads/serve.js";
import { hashHandler } from "./hash-pool.js";

serveJobs(hashHandler());
