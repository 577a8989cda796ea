import type { Donor } from "../checkpoint/donor.js";
import { readWhole } from "../checkpoint/model-source.js";
import { INDEX_FILE } from "../safetensors/shard-index.js";
import type { Digester } from "./digest.js";

/** A shard by what it holds, as far as that is known without reading weights. */
export interface ShardIdentity {
  readonly file: string;
  readonly byte_length: number;
  /** XXH128 of the bytes before the data section. */
  readonly header_digest: string;
  /** What the source vouches for, a commit's hash of the file for one: equal words mean equal bytes. */
  readonly content?: string;
}

/**
 * A model by its content: what makes a stopped run and one that would go on with it runs on the same donor. A copy has
 * the same identity, wherever it lies and whatever its times are.
 */
export interface DonorIdentity {
  /** The commit, where its source knows one; absent of a plain folder. */
  readonly commit?: string;
  /** XXH128 of the index; null where there is none. */
  readonly index_digest: string | null;
  /** XXH128 of config.json; null where there is none. */
  readonly config_digest: string | null;
  /** In the order of the run. */
  readonly shards: readonly ShardIdentity[];
}

/**
 * An identity as a ledger holds it: those of version 1 had shards alone, each with the time of its last change.
 */
export interface RecordedIdentity {
  readonly commit?: string | undefined;
  readonly index_digest?: string | null;
  readonly config_digest?: string | null;
  readonly shards: readonly (ShardIdentity & { readonly modified_ns?: string })[];
}

/** When each shard was last changed, in nanoseconds: where that is another time, a look is needed. */
export type ModifiedTimes = Readonly<Record<string, string>>;

const CONFIG_FILE = "config.json";

/** Reads headers, the index and config.json through the donor's source, no weights. Throws `DONOR_*`, `IO_*`. */
export async function identityOf(donor: Donor, digester: Digester): Promise<DonorIdentity> {
  const { source } = donor;
  const digestOf = async (file: string) =>
    donor.sideFiles.some((side) => side.file === file) ? digester.digest(await readWhole(source, file)) : null;
  const shards: ShardIdentity[] = [];
  for (const { file, byteLength, dataByteOffset } of donor.shards) {
    const { content } = await source.identity(file);
    const opened = await source.open(file);
    try {
      const header_digest = digester.digest(await opened.read(0, dataByteOffset));
      shards.push({ file, byte_length: byteLength, header_digest, ...(content === undefined ? {} : { content }) });
    } finally {
      await opened.close();
    }
  }
  const digests = { index_digest: await digestOf(INDEX_FILE), config_digest: await digestOf(CONFIG_FILE) };
  return { ...(source.commit === undefined ? {} : { commit: source.commit }), ...digests, shards };
}

/** The times beside the identity. */
export function modifiedTimesOf(donor: Donor): ModifiedTimes {
  return Object.fromEntries(donor.shards.map(({ file, modifiedNs }) => [file, String(modifiedNs)]));
}

export interface IdentityComparison {
  /** In words; none where it is the same donor as far as the identity goes. */
  readonly differences: readonly string[];
  /**
   * Shards of the same length and header that were touched or copied since: whether their weights are the same is not
   * known before somebody looks. A source that vouches for the content on both sides needs no look.
   */
  readonly touched: ReadonlySet<string>;
}

/** What differs between a donor as a ledger has it and as it is now. */
export function compareIdentities(
  was: RecordedIdentity,
  is: DonorIdentity,
  wasModified: ModifiedTimes = {},
  isModified: ModifiedTimes = {},
): IdentityComparison {
  const differences: string[] = [];
  const touched = new Set<string>();
  if (was.commit !== undefined && is.commit !== undefined && was.commit !== is.commit) {
    differences.push(
      `the donor was at commit ${was.commit} and is at ${is.commit} (its branch moved: give @${was.commit})`,
    );
  }
  for (const [key, file] of [
    ["index_digest", INDEX_FILE],
    ["config_digest", CONFIG_FILE],
  ] as const) {
    if (was[key] !== undefined && was[key] !== is[key]) differences.push(`the donor's ${file} is another`);
  }
  const before = new Map(was.shards.map((shard) => [shard.file, shard]));
  for (const { file, byte_length, header_digest, content } of is.shards) {
    const old = before.get(file);
    before.delete(file);
    if (old === undefined) differences.push(`the donor has a new shard ${file}`);
    else if (old.byte_length !== byte_length) {
      differences.push(`${file} had ${old.byte_length} bytes and has ${byte_length}`);
    } else if (old.header_digest !== header_digest) differences.push(`${file} has another header`);
    else if (old.content !== undefined && content !== undefined) {
      if (old.content !== content) differences.push(`${file} was ${old.content} and is ${content}`);
    } else if ((wasModified[file] ?? old.modified_ns) !== isModified[file]) touched.add(file);
  }
  for (const file of before.keys()) differences.push(`the donor lost its shard ${file}`);
  return { differences, touched };
}
