import type { FileLayer } from "../checkpoint/file-layer.js";
import { isPhysariumError } from "../errors.js";
import { type Ledger, RECORD_FOLDER } from "../record/ledger.js";
import { readDocuments, recordPath } from "../record/open-record.js";
import { readRuns } from "../record/run-history.js";
import { summarise } from "../record/summarise.js";
import type { SurgeryReport } from "../record/surgery-report.js";
import { type AuditedTensor, place } from "./audited-tensor.js";
import type { Findings } from "./verification.js";
import type { Recount } from "./weight-checks.js";

/** Every tensor has a record that describes it, and no record is of something else. */
export function checkRecords(tensors: readonly AuditedTensor[], ledger: Ledger, findings: Findings): void {
  findings.check(
    "ledger complete",
    `${ledger.tensors.size} tensors, ${ledger.shards.size} shards, ${ledger.sideFiles.size} side files`,
  );
  if (ledger.finished === undefined)
    findings.differ("ledger complete", RECORD_FOLDER, "the ledger has no record of the operation's end");
  const known = new Set<string>();
  for (const tensor of tensors) {
    const { info, record, shard, target } = tensor;
    known.add(info.name);
    if (record === undefined) {
      findings.differ("ledger complete", place(tensor), "the ledger misses this tensor");
      continue;
    }
    const role = target === undefined ? "carried" : "target";
    const facts: [string, unknown, unknown][] = [
      ["shard", record.shard, shard],
      ["role", record.role, role],
      ["dtype", record.dtype, info.dtype],
      ["shape", record.shape.join(), info.shape.join()],
      ["byte_offset", record.byte_offset, info.byteOffset],
      ["byte_length", record.byte_length, info.byteLength],
    ];
    for (const [fact, said, is] of facts) {
      if (said !== is)
        findings.differ("ledger complete", place(tensor), `the ledger says ${fact} ${said}, it is ${is}`);
    }
  }
  for (const name of ledger.tensors.keys()) {
    if (!known.has(name))
      findings.differ("ledger complete", `tensor "${name}"`, "the ledger has a record of a tensor that is not there");
  }
}

/** The zeros counted again are those of the ledger, tensor by tensor and shard by shard. */
export function checkCounts(
  tensors: readonly AuditedTensor[],
  recounts: ReadonlyMap<string, Recount>,
  ledger: Ledger,
  hasDonor: boolean,
  findings: Findings,
): void {
  let zeros = 0;
  const killedOfShard = new Map<string, number>();
  for (const tensor of tensors) {
    const { record, target, info, shard } = tensor;
    const recount = recounts.get(info.name);
    if (target === undefined || recount === undefined) continue;
    zeros += recount.dead;
    killedOfShard.set(shard, (killedOfShard.get(shard) ?? 0) + (hasDonor ? recount.killed : (record?.killed ?? 0)));
    if (record === undefined) continue;
    const weights = target.matrixCount * target.rows * target.cols;
    const { killed = -1, already_zero = -1, revived = 0 } = record;
    const facts: [string, unknown, unknown][] = [
      ["weights", record.weights, weights],
      ["zeros (killed + already_zero, less what was revived)", killed + already_zero - revived, recount.dead],
      ["sparsity", record.sparsity, recount.dead / weights],
      ...(hasDonor
        ? ([
            ["killed", killed, recount.killed],
            ["already_zero", already_zero, recount.alreadyZero],
          ] as [string, unknown, unknown][])
        : []),
    ];
    for (const [fact, said, is] of facts) {
      if (said !== is)
        findings.differ("zeros recounted", place(tensor), `the ledger says ${fact} ${said}, recounted ${is}`);
    }
  }
  findings.check("zeros recounted", `${zeros} zeros in the targets, as the ledger says`);
  let killed = 0;
  for (const record of [...ledger.shards.values()].sort((a, b) => a.order - b.order)) {
    killed += killedOfShard.get(record.file) ?? 0;
    if (record.killed_cumulative !== killed) {
      findings.differ(
        "zeros recounted",
        record.file,
        `the ledger says ${record.killed_cumulative} killed up to this shard, recounted ${killed}`,
      );
    }
  }
}

/** `surgery.json` is what the ledger adds up to. */
export async function checkReport(output: string, ledger: Ledger, findings: Findings, files: FileLayer): Promise<void> {
  const name = "surgery.json equals the ledger";
  findings.check(name, "totals, tensors, projections, layers, shards");
  const path = recordPath(output, "numbers");
  let said: SurgeryReport;
  try {
    said = await readDocuments(output, files);
  } catch (error) {
    if (!isPhysariumError(error)) throw error;
    findings.differ(name, path, `it cannot be read: ${error.message}`);
    return;
  }
  const is = summarise(ledger, await readRuns(output, files), output);
  findings.check("failed tensors", `${said.totals.failed_tensors}`);
  if (said.totals.failed_tensors !== 0)
    findings.differ("failed tensors", path, `${said.totals.failed_tensors} tensors failed, expected 0`);
  for (const key of [
    "flow",
    "flow_version",
    "params",
    "donor",
    "totals",
    "per_tensor",
    "per_projection",
    "per_layer",
    "shards",
    "coverage",
    "decoder",
  ] as const) {
    // Reports of before lack it; that is the only member that may be missing.
    if (key === "decoder" && said.decoder === undefined) continue;
    for (const difference of compareJson(said[key], is[key], key)) findings.differ(name, path, difference);
  }
}

/** Where two JSON values differ, by path. */
function compareJson(said: unknown, is: unknown, path: string): string[] {
  if (typeof said !== "object" || typeof is !== "object" || said === null || is === null) {
    return said === is ? [] : [`${path} is ${JSON.stringify(said)}, the ledger gives ${JSON.stringify(is)}`];
  }
  const keys = new Set([...Object.keys(said), ...Object.keys(is)]);
  return [...keys].flatMap((key) =>
    compareJson((said as Record<string, unknown>)[key], (is as Record<string, unknown>)[key], `${path}.${key}`),
  );
}
