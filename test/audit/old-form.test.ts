import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { verify } from "../../dist/audit/verify.js";
import { readDocuments, readReport } from "../../dist/record/open-record.js";
import { addSections, renderDocuments } from "../../dist/report/documents.js";
import { gaussianTensor, writeDonor } from "../donors.js";
import { operateOn } from "../surgery/operate.js";
import { temporaryFolder } from "../temporary.js";
import { readLines } from "./forge.js";

const folder = temporaryFolder();

/** Records as `fbcaf7c` wrote them: a donor told by modification times, no coverage of the decoder. */
test("a ledger of the old form is still read by verify, report and eval", async () => {
  const donor = writeDonor(join(folder, "donor"), [
    [gaussianTensor("model.layers.0.mlp.up_proj.weight", "BF16", [40, 30], 1)],
  ]);
  const output = join(folder, "output");
  await operateOn(donor, output, { blockSize: 16 }, { render: renderDocuments });
  const lines = readLines(output);
  lines[0].ledger_version = 1;
  for (const shard of lines[0].fingerprint.shards) shard.modified_ns = "1700000000000000000";
  writeFileSync(join(output, "physarium/ledger.jsonl"), lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
  const { decoder, ...numbers } = JSON.parse(readFileSync(join(output, "physarium/surgery.json"), "utf8"));
  expect(decoder).toBeDefined();
  writeFileSync(join(output, "physarium/surgery.json"), JSON.stringify(numbers));

  expect((await verify(output, { donorPath: donor, workers: 0 })).differences).toEqual([]);
  expect((await verify(output, { workers: 0 })).differences).toEqual([]);
  expect((await readReport(output)).totals).toEqual(numbers.totals);
  // What eval does: the share that was killed, then a section of its own.
  expect((await readDocuments(output)).totals.killed_of_target).toBe(numbers.totals.killed_of_target);
  await addSections(output, {});
});
