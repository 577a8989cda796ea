import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { physarium } from "../physarium.js";
import { LOAM } from "../probe/engine-present.js";
import { temporaryFolder } from "../temporary.js";

const folder = temporaryFolder();
const text = join(folder, "story.txt");
writeFileSync(text, "Once upon a time there was a little fox who lived in the wood.\n".repeat(20));
const preload = new URL("./no-engine-preload.mjs", import.meta.url);
const output = join(folder, "operated");

test.each([
  ["eval", ["eval", LOAM, "--text", text, "--window", "16"]],
  ["generate", ["generate", LOAM, "--prompt", "Once"]],
  ["compare", ["compare", LOAM, "--text", text, "--window", "16"]],
  ["surgery --flow activation", ["surgery", LOAM, output, "--flow", "activation", "--pattern", "2:4"]],
  ["surgery --eval, before it operates,", ["surgery", LOAM, output, "--eval", text]],
])("without the engine %s says what to install", async (_, args) => {
  const { status, stderr } = await physarium(args, { preload });
  expect(stderr).toMatch(
    /needs onnxruntime-node, .*npm install --ignore-scripts onnxruntime-node@1\.30\.0 \[USAGE_ENGINE_MISSING\]\n$/,
  );
  expect(stderr.trimEnd().split("\n")).toHaveLength(1);
  expect(status).toBe(2);
  expect(existsSync(output)).toBe(false);
});

test.each([
  [["--flow", "magnitude", "--threads", "2"], /--threads belongs to --flow activation/],
  [["--flow", "magnitude", "--device", "cpu"], /--device belongs to --flow activation/],
  [["--flow", "activation", "--pattern", "2:4", "--threads", "0"], /--threads.*at least 1/],
  [["--flow", "activation", "--pattern", "2:4", "--memory", "-1"], /--memory.*more than 0 GiB/],
])("surgery says what goes with what: %j", async (more, message) => {
  const { status, stderr } = await physarium(["plan", LOAM, ...more]);
  expect(stderr).toMatch(message);
  expect(status).toBe(2);
});
