// Loaded before the command line: ends a worker thread at its N-th write.
import fs from "node:fs/promises";
import { syncBuiltinESMExports } from "node:module";
import { isMainThread } from "node:worker_threads";

if (!isMainThread) {
  const { open } = fs;
  let writes = 0;
  fs.open = async (...args) => {
    const file = await open(...args);
    const { write } = file;
    file.write = (...rest) => {
      if (++writes === Number(process.env.PHYSARIUM_WORKER_DIES_AT)) process.exit(3);
      return write.apply(file, rest);
    };
    return file;
  };
  syncBuiltinESMExports();
}
