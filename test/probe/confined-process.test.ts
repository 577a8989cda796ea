import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { expect, test } from "vitest";
import { PhysariumError } from "../../dist/errors.js";
import { ConfinedProcess } from "../../dist/probe/text/confined-process.js";
import { temporaryFolder } from "../temporary.js";

const folder = temporaryFolder();
const refuse = (words: string) => new PhysariumError("DONOR_TOKENIZER", words);

/** What a job gets of a process that runs this program. */
async function answerOf(program: string): Promise<unknown> {
  const path = join(folder, `${Math.random().toString(36).slice(2)}.mjs`);
  writeFileSync(path, program);
  const child = new ConfinedProcess<string, string>(pathToFileURL(path), refuse);
  try {
    return await child.run("job");
  } catch (error) {
    return error;
  } finally {
    child.close();
  }
}

test("a process that ends by an error of its own is a bug of ours, with its words; not the model's fault", async () => {
  const missing = await answerOf('import "./nowhere.mjs";');
  expect(missing).toMatchObject({ code: "INTERNAL" });
  expect(String(missing)).toMatch(/ended with code 1: Error .*Cannot find module .*nowhere\.mjs/);
});

test.each([
  'process.on("message", () => new ArrayBuffer(2 ** 53 - 1));',
  'process.on("message", () => "x".repeat(2 ** 30));',
  'process.on("message", () => { const all = []; for (;;) all.push(new Array(1e6).fill(all.length)); });',
])("one that asks for too much memory is the model's: %s", async (program) => {
  const error = await answerOf(program);
  expect(error).toMatchObject({ code: "DONOR_TOKENIZER" });
  expect(String(error)).toMatch(/needs more than the \d+ MiB of memory/);
});
