import { GramFile } from "../calibration/grams/gram-file.js";
import { isGramFile } from "../calibration/grams/stored-grams.js";
import type { LayerSettings } from "../calibration/layer-surgery.js";
import { defaultMemoryBytes } from "../calibration/memory.js";
import type { Donor } from "../checkpoint/donor.js";
import { type FileLayer, nodeFiles, readSmallFile } from "../checkpoint/file-layer.js";
import { PhysariumError } from "../errors.js";
import type { Digester } from "../record/digest.js";
import {
  compareIdentities,
  type DonorIdentity,
  type IdentityComparison,
  identityOf,
  modifiedTimesOf,
} from "../record/donor-identity.js";
import type { Fingerprint, HeaderRecord } from "../record/ledger.js";
import { PHYSARIUM_VERSION } from "../version.js";
import type { CheckedOptions } from "./options.js";
import type { Plan } from "./plan.js";

/** What makes two runs the same operation. Reads the headers, the index and config.json again and digests them. */
export async function fingerprintOf(
  plan: Plan,
  digester: Digester,
  files: FileLayer = nodeFiles,
): Promise<NewFingerprint> {
  const { options } = plan;
  return {
    physarium_version: PHYSARIUM_VERSION,
    flow: options.flow,
    flow_version: options.flowVersion,
    block_size: options.params.blockSize,
    n_iter: options.params.nIter,
    beta: options.params.beta,
    survival: isSurvivalGiven(options) ? options.params.survival : null,
    target_sparsity: options.targetSparsity ?? null,
    include: options.include ?? null,
    exclude: options.exclude ?? null,
    allow_non_finite: options.allowNonFinite,
    activation: await activationFingerprint(options.activation, digester, files),
    ...(await identityOf(plan.model, digester)),
  };
}

/** A search finds it, or v2 aims at a rate or pattern without one. */
function isSurvivalGiven({ targetSparsity, activation }: CheckedOptions): boolean {
  return targetSparsity === undefined && (activation === undefined || activation.target.kind === "emergent");
}

async function activationFingerprint(
  settings: LayerSettings | undefined,
  digester: Digester,
  files: FileLayer,
): Promise<Fingerprint["activation"]> {
  if (settings === undefined) return null;
  const {
    target,
    calibration,
    samples,
    window,
    protocol,
    seed,
    options,
    allocation,
    gram,
    memoryBytes,
    device,
    match,
    distil,
  } = settings;
  return {
    target: { ...target },
    calibration: await calibrationDigest(calibration, digester, files),
    samples,
    window: window ?? null,
    protocol: protocol === undefined ? null : { ...protocol },
    seed,
    heal: options?.heal ?? true,
    allocation,
    gram,
    ...(match === undefined ? {} : { match: { ...match } }),
    ...(distil === undefined ? {} : { distil: { ...distil } }),
    // Another device rounds otherwise; the usual one goes without saying, as it did before there was a choice.
    ...(device === undefined || device === "cpu" ? {} : { device }),
    // The budget decides between whole Grams and tiles, so another machine's default would be another operation.
    memory_bytes: gram === "auto" ? (memoryBytes ?? defaultMemoryBytes()) : null,
  };
}

/** Of a file of Grams what it says of itself: the numbers may take gigabytes. */
async function calibrationDigest(path: string | undefined, digester: Digester, files: FileLayer): Promise<string> {
  if (path === undefined) return "self-written";
  if (!isGramFile(path)) return digester.digest(await readSmallFile(path, files, 1 << 30));
  const grams = await GramFile.open(path);
  await grams.close();
  return digester.digest(new TextEncoder().encode(grams.identity));
}

/** The fingerprint of a run that is about to begin. */
export type NewFingerprint = Fingerprint & DonorIdentity;

/** Everything that differs between an operation as it was recorded and one of now, in words. */
export function compareOperations(
  { fingerprint: stopped, donor: { modified_ns } }: HeaderRecord,
  now: NewFingerprint,
  donor: Donor,
): IdentityComparison {
  const [was, is] = [flatten(settingsOf(stopped)), flatten(settingsOf(now))];
  const settings: string[] = [];
  for (const key of new Set([...was.keys(), ...is.keys()])) {
    if (was.get(key) !== is.get(key)) {
      settings.push(`${key} was ${was.get(key) ?? "not given"} and is ${is.get(key) ?? "not given"}`);
    }
  }
  const { differences, touched } = compareIdentities(stopped, now, modified_ns, modifiedTimesOf(donor));
  return { differences: [...settings, ...differences], touched };
}

/**
 * Refuse to mix two operations in one output. Throws `USAGE_RESUME_MISMATCH`, saying everything that differs.
 *
 * returns  shards of the same length and header that were touched or copied since: whether their weights are the same,
 *          nobody knows
 */
export function checkSameOperation(
  header: HeaderRecord,
  now: NewFingerprint,
  donor: Donor,
  outputPath: string,
): ReadonlySet<string> {
  const { differences, touched } = compareOperations(header, now, donor);
  if (differences.length === 0) return touched;
  throw new PhysariumError(
    "USAGE_RESUME_MISMATCH",
    `${outputPath}: the run that stands there is another operation: ${differences.join("; ")}; give the same donor ` +
      "and parameters, or start over with --overwrite",
    { differences },
  );
}

/** Everything of a fingerprint but the donor. */
function settingsOf({ index_digest: _index, config_digest: _config, shards: _shards, ...settings }: Fingerprint) {
  return settings;
}

/** Every leaf by its name, as `activation.seed`, as JSON. */
function flatten(value: object, prefix = "", into = new Map<string, string>()): Map<string, string> {
  for (const [key, inner] of Object.entries(value)) {
    if (typeof inner === "object" && inner !== null) flatten(inner, `${prefix}${key}.`, into);
    else into.set(`${prefix}${key}`, JSON.stringify(inner));
  }
  return into;
}
