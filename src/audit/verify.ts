import { randomInt } from "node:crypto";
import { availableParallelism } from "node:os";
import { resolve } from "node:path";
import { openDonor } from "../checkpoint/donor.js";
import { type FileLayer, nodeFiles } from "../checkpoint/file-layer.js";
import { findFlow, isDataFree } from "../flow/flows.js";
import type { FlowParams } from "../flow/params.js";
import type { DataFreeFlow } from "../flow/reference.js";
import { decoderCoverage } from "../record/decoder-coverage.js";
import { createDigester } from "../record/digest.js";
import { type Ledger, RECORD_FOLDER } from "../record/ledger.js";
import { openLedger } from "../record/open-record.js";
import { checkSignature, keyId, parsePublicKey } from "../record/signature.js";
import { asDecoderTensor } from "./audited-tensor.js";
import { checkDecoder } from "./decoder-checks.js";
import { checkFolder, checkShapes } from "./folder-checks.js";
import { checkCounts, checkRecords, checkReport } from "./ledger-checks.js";
import { checkMatching } from "./matching-check.js";
import { fromDonor, fromLedger } from "./targets.js";
import { Findings, type Guarantee, type Verification } from "./verification.js";
import { checkWeights, type ParityMode } from "./weight-checks.js";

/** How an output is verified: with its donor or alone, how thoroughly, with whose key. */
export interface VerifyOptions {
  /** Without it the output is checked against its ledger alone. */
  readonly donorPath?: string;
  /** How the mask is held to the flow; default the whole operation over again. */
  readonly parity?: ParityMode;
  /** The sample of the reference is drawn from it, 0 … 2^32 − 1; default one that nobody knows beforehand. */
  readonly seed?: number;
  /** The flow that the output must be of, whatever its ledger says. */
  readonly expect?: string;
  /** The output must be signed with the private half of this Ed25519 key (PEM). */
  readonly publicKey?: string | Buffer;
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
 * Nothing of the run's state is used: folders, headers, roles and counts are derived again. Read-only. Throws `DONOR_*`
 * for a donor that cannot be opened and `VERIFY_OUTPUT` where there is no finished output to look at; differences are
 * returned.
 */
export async function verify(outputPath: string, options: VerifyOptions = {}): Promise<Verification> {
  const started = performance.now();
  const { files = nodeFiles, onProgress = () => {} } = options;
  const output = resolve(outputPath);
  const key = options.publicKey === undefined ? undefined : parsePublicKey(options.publicKey, "the public key");
  const ledger = await openLedger(output, files);
  const donor = options.donorPath === undefined ? undefined : await openDonor(resolve(options.donorPath), files);
  const digester = await createDigester();
  const findings = new Findings();

  checkFlow(ledger, options.expect, findings);
  const { headers } = await checkFolder(output, donor, ledger, findings, digester, files);
  if (donor !== undefined) checkShapes(donor, headers, findings);
  const tensors = donor === undefined ? fromLedger(headers, ledger) : fromDonor(donor, ledger, findings);
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
      parity: options.parity ?? "full",
      seed: options.seed ?? randomInt(2 ** 32),
      heals: ledger.header.fingerprint.activation?.heal ?? true,
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
  if (key !== undefined) {
    const faults = await checkSignature(output, key, ledger, { files, signal: options.signal });
    findings.check("signature", `every file is as the owner of key ${keyId(key)} signed it`);
    for (const { where, message } of faults) findings.differ("signature", where, message);
  }

  const { coverage, parity, bytesRead, digestSeconds } = audit;
  const decoder = decoderCoverage(tensors.map(asDecoderTensor));
  checkDecoder(tensors, decoder, findings);
  checkMatching(tensors, ledger, findings);
  return {
    ok: findings.differences.length === 0,
    output,
    donor: donor?.path,
    checks: findings.checks(),
    differences: findings.differences,
    guarantee: guaranteeOf(donor !== undefined, dataFreeFlow(ledger), parity),
    coverage,
    decoder,
    parity,
    bytes_read: bytesRead,
    wall_seconds: (performance.now() - started) / 1000,
    digest_seconds: digestSeconds,
  };
}

/** What the ledger claims to have been done, in words, and whether that was expected. */
function checkFlow(ledger: Ledger, expect: string | undefined, findings: Findings): void {
  const { flow, flow_version } = ledger.header.fingerprint;
  const { blockSize, nIter, beta, survival } = paramsOf(ledger);
  findings.check(
    "flow",
    `${flow} ${flow_version}, block size ${blockSize}, ${nIter} steps, beta ` +
      `${beta}${survival === 0 ? "" : `, survival ${survival}`}`,
  );
  const known = findFlow(flow)!.version;
  if (flow_version !== known)
    findings.differ("flow", RECORD_FOLDER, `its version is ${flow_version}, this Physarium knows ${known}`);
  if (expect !== undefined && flow !== expect)
    findings.differ("flow", RECORD_FOLDER, `the ledger says the flow was ${flow}, expected ${expect}`);
}

function guaranteeOf(
  hasDonor: boolean,
  flow: DataFreeFlow | undefined,
  { mode, tiles_checked, tiles_total }: Verification["parity"],
): Guarantee {
  if (!hasDonor) return "digests";
  if (flow === undefined) return "healed";
  if (mode === "none") return "survivors";
  return tiles_checked === tiles_total ? "exact" : "sampled";
}

function paramsOf({ header: { fingerprint }, search }: Ledger): FlowParams {
  const { block_size, n_iter, beta, survival } = fingerprint;
  return { blockSize: block_size, nIter: n_iter, beta, survival: search?.survival ?? survival ?? 0 };
}

function dataFreeFlow({ header }: Ledger): DataFreeFlow | undefined {
  const { flow } = header.fingerprint;
  const { name } = findFlow(flow)!;
  return isDataFree(name) ? name : undefined;
}
