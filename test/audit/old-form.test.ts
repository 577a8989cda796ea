import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { verify } from "../../dist/audit/verify.js";
import { readDocuments, readReport } from "../../dist/record/open-record.js";
import { addSections } from "../../dist/report/documents.js";
import { PHYSARIUM_VERSION } from "../../dist/version.js";
import { gaussianTensor, writeDonor } from "../donors.js";
import { physarium } from "../physarium.js";
import { temporaryFolder } from "../temporary.js";

const folder = temporaryFolder();
const FIXTURE = fileURLToPath(new URL("../fixtures/old-output", import.meta.url));

/** `surgery donor output --block-size 16` as `fbcaf7c` wrote it: told by times, no coverage of the decoder. */
test("a ledger of the old form is still read by verify, report, eval and resume", async () => {
  const donor = writeDonor(join(folder, "donor"), [
    [gaussianTensor("model.layers.0.mlp.up_proj.weight", "BF16", [40, 30], 1)],
  ]);
  const output = join(folder, "output");
  cpSync(FIXTURE, output, { recursive: true });
  const path = join(output, "physarium/ledger.jsonl");
  // Another version would be another operation.
  const version = JSON.stringify({ physarium_version: PHYSARIUM_VERSION }).slice(1, -1);
  const ledger = readFileSync(path, "utf8").replace(/"physarium_version":"[^"]*"/, version);
  writeFileSync(path, ledger);
  expect(ledger).toContain('"ledger_version":1,');
  const numbers = JSON.parse(readFileSync(join(output, "physarium/surgery.json"), "utf8"));

  expect((await verify(output, { donorPath: donor, workers: 0 })).differences).toEqual([]);
  expect((await verify(output, { workers: 0 })).differences).toEqual([]);
  expect((await readReport(output)).totals).toEqual(numbers.totals);
  // What eval does: the share that was killed, then a section of its own.
  expect((await readDocuments(output)).totals.killed_of_target).toBe(numbers.totals.killed_of_target);
  await addSections(output, {});
  for (const command of [
    ["verify", donor, output],
    ["report", output],
    ["surgery", donor, output, "--block-size", "16", "--resume"],
  ]) {
    const { status, stderr } = await physarium(command);
    expect(status, `${command[0]}: ${stderr}`).toBe(0);
  }
  expect(readFileSync(path, "utf8")).toBe(ledger);
});
