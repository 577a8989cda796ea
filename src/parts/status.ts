import { type FileLayer, nodeFiles } from "../checkpoint/file-layer.js";
import { isPhysariumError, PhysariumError } from "../errors.js";
import { type LockHolder, lockHolder } from "../output/lock.js";
import { listOrNothing } from "../output/place.js";
import { isOperated, readDocuments } from "../record/open-record.js";
import { atOnce } from "./at-once.js";
import { type DoneHead, readDoneHead, readFailed } from "./manifest.js";
import { type PartsFolder, partLock, partOfFile, partsFolder } from "./parts-folder.js";
import { type PartsPlan, readPartsPlan } from "./parts-plan.js";

/** How one part stands, and where it is or was done. */
export interface PartStatus {
  readonly part: number;
  readonly state: "done" | "running" | "failed" | "missing";
  readonly byte_length: number;
  readonly host?: string;
  /** Running parts: since when. Done and failed ones: when that was. */
  readonly at?: string;
  readonly seconds?: number;
  /** Of failed parts, and of those that are missing although somebody began them. */
  readonly why?: string;
  readonly code?: string;
  /** Failed parts: whether another try is worth it without a change. */
  readonly retry?: boolean;
}

/** How all parts of an output stand; the four counts add up to `part_count`. */
export interface PartsStatus {
  readonly output: string;
  /** `joined`: the output stands under its name. */
  readonly state: "open" | "joined";
  readonly part_count: number;
  readonly done: number;
  readonly running: number;
  readonly failed: number;
  readonly missing: number;
  readonly byte_length: number;
  readonly bytes_done: number;
  readonly parts: readonly PartStatus[];
}

/** How far an operation in parts is, from what its parts left on the disk. Throws `USAGE_PARTS`, `IO_*`. */
export async function partsStatus(outputPath: string, files: FileLayer = nodeFiles): Promise<PartsStatus> {
  const folder = await partsFolder(outputPath, files);
  const plan = await readPartsPlan(folder, files);
  if (plan === undefined) return joinedStatus(folder, files);
  const { done, parts } = await statusOfParts(folder, plan, files);
  const count = (state: PartStatus["state"]) => parts.filter((part) => part.state === state).length;
  return {
    output: folder.path,
    state: "open",
    part_count: plan.part_count,
    done: done.size,
    running: count("running"),
    failed: count("failed"),
    missing: count("missing"),
    byte_length: plan.parts.reduce((sum, { byte_length }) => sum + byte_length, 0),
    bytes_done: [...done].reduce((sum, part) => sum + plan.parts[part].byte_length, 0),
    parts,
  };
}

async function statusOfParts(folder: PartsFolder, plan: PartsPlan, files: FileLayer) {
  const left = new Map<string, Set<number>>();
  for (const name of (await listOrNothing(folder.folder, files)) ?? []) {
    const file = partOfFile(name);
    if (file !== undefined) left.set(file.kind, (left.get(file.kind) ?? new Set()).add(file.part));
  }
  const has = (kind: string, part: number) => left.get(kind)?.has(part) ?? false;
  const holders = await holdersOf(folder, files);
  const done = new Set<number>();
  const parts = new Array<PartStatus>(plan.part_count);
  await atOnce(plan.parts, async ({ part, byte_length }) => {
    const base = { part, byte_length };
    const holder = holders.get(part);
    let damage: string | undefined;
    if (has("done.json", part)) {
      const head = await doneHead(folder, part, files);
      if (typeof head !== "string" && head?.fingerprint === plan.fingerprint) {
        done.add(part);
        const { host, ended_at, seconds } = head;
        parts[part] = { ...base, state: "done", host, at: ended_at, seconds };
        return;
      }
      damage = typeof head === "string" ? head : "what was done belongs to another operation";
    }
    if (holder?.isAlive) {
      parts[part] = { ...base, state: "running", host: holder.host, at: holder.at };
      return;
    }
    const failed = has("failed.json", part) ? await readFailed(folder, part, files).catch(() => undefined) : undefined;
    if (damage === undefined && failed !== undefined && failed.fingerprint === plan.fingerprint) {
      const { host, at, code, message, retry } = failed;
      parts[part] = { ...base, state: "failed", host, at, code, why: message, retry };
      return;
    }
    const why =
      damage ??
      (holder !== undefined
        ? `its run (process ${holder.pid} on ${holder.host}, since ${holder.at}) ended without a word`
        : has("jsonl", part)
          ? "a run of it was stopped; the next goes on from there"
          : undefined);
    parts[part] = { ...base, state: "missing", ...(why === undefined ? {} : { why }) };
  });
  return { done, parts };
}

async function doneHead(folder: PartsFolder, part: number, files: FileLayer): Promise<DoneHead | string | undefined> {
  try {
    return await readDoneHead(folder, part, files);
  } catch (error) {
    if (isPhysariumError(error, "VERIFY_")) return error.message;
    throw error;
  }
}

/** Parts that somebody works on just now. */
export async function runningParts(
  folder: PartsFolder,
  files: FileLayer,
): Promise<(LockHolder & { readonly part: number })[]> {
  const holders = [...(await holdersOf(folder, files))].sort(([a], [b]) => a - b);
  return holders.flatMap(([part, holder]) => (holder.isAlive ? [{ ...holder, part }] : []));
}

async function holdersOf(folder: PartsFolder, files: FileLayer): Promise<Map<number, LockHolder>> {
  const holders = new Map<number, LockHolder>();
  const locked = ((await listOrNothing(folder.locks, files)) ?? []).flatMap((name) => {
    const part = /^part-(\d+)\.lock$/.exec(name)?.[1];
    return part === undefined ? [] : [Number(part)];
  });
  await atOnce(locked, async (part) => {
    const holder = await lockHolder(partLock(folder, part), files);
    if (holder !== undefined) holders.set(part, holder);
  });
  return holders;
}

/** Behind `finish` the output itself says how it was made. */
async function joinedStatus(folder: PartsFolder, files: FileLayer): Promise<PartsStatus> {
  const joined = await joinedFrom(folder, files);
  if (joined === undefined) throw noParts(folder);
  const { part_count, byte_length } = joined;
  return {
    output: folder.path,
    state: "joined",
    part_count,
    done: part_count,
    running: 0,
    failed: 0,
    missing: 0,
    byte_length,
    bytes_done: byte_length,
    parts: joined.parts.map(({ part, host, byte_length, ended_at, seconds }) => ({
      part,
      state: "done",
      byte_length,
      host,
      at: ended_at,
      seconds,
    })),
  };
}

/** How the finished output was joined; `undefined` where there is none, or one that a single run made. */
export async function joinedFrom({ path }: PartsFolder, files: FileLayer) {
  if (!(await isOperated(path, files))) return undefined;
  return (await readDocuments(path, files)).parts ?? undefined;
}

/** Refuse what needs parts where there are none. */
export async function refuseJoined(folder: PartsFolder, files: FileLayer): Promise<never> {
  if ((await joinedFrom(folder, files)) === undefined) throw noParts(folder);
  throw new PhysariumError("USAGE_PARTS", `${folder.path}: its parts are joined already; there is nothing left to do`, {
    path: folder.path,
  });
}

export function noParts({ path, folder }: PartsFolder): PhysariumError {
  return new PhysariumError(
    "USAGE_PARTS",
    `${folder}: nothing was prepared there; give the output that physarium parts prepare was given, or prepare it`,
    { path },
  );
}
