#!/usr/bin/env node
// The `physarium` command. Plain old JavaScript: it must be read by any Node, to say in a sentence which one is needed.
"use strict";

var wanted = require("../package.json").engines.node.replace(">=", "").split(".").map(Number);
var found = process.versions.node.split(".").map(Number);
var isOld = found[0] < wanted[0] || (found[0] === wanted[0] && found[1] < (wanted[1] || 0));
var message = [
  "physarium: this is Node",
  process.versions.node + ",",
  "and",
  wanted.join("."),
  "or newer is needed; install the current LTS from nodejs.org,",
  "or with your version manager (nvm install --lts) [USAGE_NODE]\n",
].join(" ");

if (isOld) {
  process.stderr.write(message);
  process.exitCode = 2;
} else {
  // The thread pool of file operations is sized at its first use, which may be the reading of our own modules.
  if (process.env.UV_THREADPOOL_SIZE === undefined) process.env.UV_THREADPOOL_SIZE = "16";
  require("./start.cjs");
}
