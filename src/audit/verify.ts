import { availableParallelism } from "node:os";
import { resolve } from "node:path";
import { type Donor, openDonor } from "../checkpoint/donor.js";
import { type FileLayer, nodeFiles } from "../checkpoint/file-layer.js";
import { type Classification, classifyTensor } from "../checkpoint/projections.js";
import type { FlowParams } from "../flow/params.js";
import type { DataFreeFlow } from "../flow/reference.js";
import { decoderCoverage } from "../record/decoder-coverage.js";
import { createDigester } from "../record/digest.js";
import type { Ledger, TensorRecord } from "../record/ledger.js";
import { openLedger } from "../record/open-record.js";
import { isFloatDtype } from "../safetensors/dtypes.js";
import type { SafetensorsHeader } from "../safetensors/header.js";
import { compilePattern } from "../surgery/options.js";
import { type AuditedTensor, asDecoderTensor } from "./audited-tensor.js";
import { checkDecoder } from "./decoder-checks.js";
import { checkFolder, checkShapes } from "./folder-checks.js";
import { checkCounts, checkRecords, checkReport } from "./ledger-checks.js";
import { Findings, type Verification } from "./verification.js";
import { checkWeights } from "./weight-checks.js";

export interface VerifyOptions {
  /** Without it the output is checked against its ledger alone. */
  readonly donorPath?: string;
  /** Tiles the reference iteration is run on: some, or all. */
  readonly parity?: "sample" | "full" | "none";
  readonly workers?: number;
  readonly onProgress?: (bytesDone: number, bytesTotal: number) => void;
  readonly signal?: AbortSignal;
  readonly files?: FileLayer;
}

/** Threads that keep a disk busy; more only cost memory. */
const MAX_WORKERS = 4;

/**
 * Re-read an output (and its donor) from disk and list everything that is not as it should be.
 *
 * Nothing of the run's state is used: folders, headers, roles and counts are derived again. Read-only. Throws `DONOR_*` for a
 * donor that cannot be opened and `VERIFY_OUTPUT` where there is no finished output to look at; differences are returned.
 */
export async function verify(outputPath: string, options: VerifyOptions = {}): Promise<Verification> {
  const started = performance.now();
  const { files = nodeFiles, onProgress = () => {} } = options;
  const output = resolve(outputPath);
  const ledger = await openLedger(output, files);
  const donor = options.donorPath === undefined ? undefined : await openDonor(resolve(options.donorPath), files);
  const digester = await createDigester();
  const findings = new Findings();

  const { headers } = await checkFolder(output, donor, ledger, findings, digester, files);
  if (donor !== undefined) checkShapes(donor, headers, findings);
  const tensors = donor === undefined ? fromLedger(headers, ledger) : fromDonor(donor, ledger);
  checkRecords(tensors, ledger, findings);

  // Weights can only be compared where both sides have the same bytes in the same places.
  const places = new Map(
    [...headers].flatMap(([shard, header]) => header.tensors.map((t) => [`${shard}\0${t.name}`, t] as const)),
  );
  const comparable = tensors.filter(({ shard, info }) => {
    const found = places.get(`${shard}\0${info.name}`);
    return found?.byteOffset === info.byteOffset && found.byteLength === info.byteLength;
  });
  const unseen = tensors.length - comparable.length;
  if (unseen > 0)
    findings.differ(
      "all tensors open",
      output,
      `${unseen} tensors could not be compared because their shards cannot be read`,
    );
  const audit = await checkWeights(
    comparable,
    {
      output,
      donor: donor?.path,
      flow: dataFreeFlow(ledger),
      params: paramsOf(ledger),
      parity: options.parity ?? "sample",
      workers: options.workers ?? Math.min(availableParallelism(), MAX_WORKERS),
      files,
      onProgress,
      signal: options.signal,
    },
    digester,
    findings,
  );
  checkCounts(comparable, audit.recounts, ledger, donor !== undefined, findings);
  await checkReport(output, ledger, findings, files);

  const { coverage, parity, bytesRead, digestSeconds } = audit;
  const decoder = decoderCoverage(tensors.map(asDecoderTensor));
  checkDecoder(tensors, decoder, findings);
  return {
    ok: findings.differences.length === 0,
    output,
    donor: donor?.path,
    checks: findings.checks(),
    differences: findings.differences,
    coverage,
    decoder,
    parity,
    bytes_read: bytesRead,
    wall_seconds: (performance.now() - started) / 1000,
    digest_seconds: digestSeconds,
  };
}

function paramsOf({ header: { fingerprint }, search }: Ledger): FlowParams {
  const { block_size, n_iter, beta, survival } = fingerprint;
  return { blockSize: block_size, nIter: n_iter, beta, survival: search?.survival ?? survival ?? 0 };
}

function dataFreeFlow({ header }: Ledger): DataFreeFlow | undefined {
  const { flow } = header.fingerprint;
  return flow === "magnitude" || flow === "balanced" ? flow : undefined;
}

/** The donor's tensors, their roles derived again from names and shapes. */
function fromDonor(donor: Donor, ledger: Ledger): AuditedTensor[] {
  const { include, exclude } = ledger.header.fingerprint;
  const choice = {
    include: compilePattern("include", include ?? undefined),
    exclude: compilePattern("exclude", exclude ?? undefined),
  };
  return donor.shards.flatMap(({ file, tensors }) =>
    tensors.map((info) => ({
      shard: file,
      info,
      ...auditedPart(classifyTensor(info, choice, donor.structure)),
      record: ledger.tensors.get(info.name),
    })),
  );
}

function auditedPart({
  target,
  inDecoder,
  reason,
}: Classification): Pick<AuditedTensor, "target" | "inDecoder" | "why"> {
  return { target, inDecoder, why: inDecoder && target === undefined ? reason : undefined };
}

/** The output's own tensors, their roles as the ledger has them. */
function fromLedger(headers: ReadonlyMap<string, SafetensorsHeader>, ledger: Ledger): AuditedTensor[] {
  return [...headers].flatMap(([shard, { tensors }]) =>
    tensors.map((info) => {
      const record = ledger.tensors.get(info.name);
      const inDecoder = record?.role === "target" ? record.in_decoder !== false : record?.why !== undefined;
      return { shard, info, target: targetOf(record), inDecoder, why: record?.why, record };
    }),
  );
}

function targetOf(record: TensorRecord | undefined): AuditedTensor["target"] {
  if (record === undefined || record.role !== "target" || !isFloatDtype(record.dtype)) return undefined;
  const { shape, dtype } = record;
  const [matrixCount, rows, cols] = shape.length === 3 ? shape : [1, ...shape];
  const target = { dtype, matrixCount, rows, cols };
  return record.stored_by_input ? { ...target, storedByInput: true } : target;
}
