import { hostname } from "node:os";
import { dirname } from "node:path";
import { closeQuietly, type FileLayer, nodeFiles, readSmallFile } from "../checkpoint/file-layer.js";
import { isPhysariumError } from "../errors.js";
import { type Heartbeat, silenceOf } from "./heartbeat.js";
import { isAnswered, type LifeLine } from "./life-line.js";

/** Who holds a lock, as its file says. */
export interface LockOwner {
  readonly pid: number;
  readonly host: string;
  /** Boot and kernel's start time of the process, so that a reused pid is not taken for the owner. */
  readonly started: string;
  /**
   * The pid's namespace, as the kernel numbers it; empty where the system has none, absent in locks of earlier
   * versions.
   */
  readonly namespace?: string;
  /** Socket beside the lock that answers while the owner lives: see life-line.ts. */
  readonly alive?: string;
  /** Where machines share the disk: the rule by which the lock expires, as its owner keeps it. */
  readonly heartbeat?: Heartbeat;
  readonly at: string;
}

/** This process as an owner. */
export async function thisProcess(line: LifeLine | undefined, files: FileLayer): Promise<LockOwner> {
  return {
    pid: process.pid,
    host: hostname(),
    started: (await lifeOf(process.pid, files)).started,
    namespace: await namespaceOfPids(files),
    ...(line === undefined ? {} : { alive: line.name }),
    at: new Date().toISOString(),
  };
}

/** What stands in the file of a lock. */
export function contentOf(owner: LockOwner): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(owner));
}

/**
 * How often this process holds a lock or is about to: counted before the file appears, so that no other run of it sees
 * one unheld.
 */
const locksHeld = new Map<string, number>();

/** Count one more, or one less. */
export function holds(path: string, more: 1 | -1): void {
  const times = (locksHeld.get(path) ?? 0) + more;
  if (times === 0) locksHeld.delete(path);
  else locksHeld.set(path, times);
}

/** A lock on a file system without hard links is empty for a moment. */
const REREAD_MS = 25;

/** The owner; `gone` if there is no lock; `undefined` if it is unreadable and stays so: the rest of a crash. */
export async function readOwner(path: string, files: FileLayer): Promise<LockOwner | "gone" | undefined> {
  for (let tries = 0; tries < 20; tries++) {
    try {
      const owner: unknown = JSON.parse(new TextDecoder().decode(await readSmallFile(path, files, 65_536)));
      // Pack's locks of earlier versions hold a bare pid. If it is ours now, it was another's then.
      if (typeof owner === "number" && owner !== process.pid) return ownerOf({ pid: owner });
      return ownerOf(owner);
    } catch (error) {
      if (isPhysariumError(error, "IO_NOT_FOUND")) return "gone";
      if (isPhysariumError(error, "DONOR_")) return undefined;
      if (!(error instanceof SyntaxError)) throw error;
      await new Promise((wake) => setTimeout(wake, REREAD_MS));
    }
  }
  return undefined;
}

function ownerOf(value: unknown): LockOwner | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const {
    pid,
    host = hostname(),
    started = "",
    at = "an unknown time",
    namespace,
    alive,
    heartbeat,
  } = value as Partial<LockOwner>;
  if (!Number.isSafeInteger(pid) || (pid as number) <= 0) return undefined;
  if ([host, started, at, namespace ?? "", alive ?? ""].some((member) => typeof member !== "string")) return undefined;
  if (heartbeat !== undefined && !(Number(heartbeat?.expires_ms) > 0)) return undefined;
  return { ...(value as LockOwner), pid: pid as number, host, started, at };
}

/** False only where the owner is known to be gone. */
export async function isAlive(owner: LockOwner, path: string, files: FileLayer): Promise<boolean> {
  const folder = dirname(path);
  const ownNamespace = await namespaceOfPids(files);
  const boot = await bootOf(files);
  const sameKernel = boot !== "" && owner.started.startsWith(`${boot} `);
  // Machines of a cluster may all have one name, and the first namespace has the same number on each.
  const isHere = owner.host === hostname() && (owner.heartbeat === undefined || sameKernel);
  if (!isHere || (owner.namespace !== undefined && owner.namespace !== ownNamespace)) {
    // Of another host, or of a container beside this one: its pid says nothing here. Another boot of this host has
    // ended with all its processes.
    if (sameKernel && owner.alive !== undefined && (await isAnswered(folder, owner.alive)) === false) return false;
    if (owner.heartbeat !== undefined)
      return ((await silenceOf(path, files)) ?? Infinity) <= owner.heartbeat.expires_ms;
    return !(owner.host === hostname() && boot !== "" && owner.started !== "" && !sameKernel);
  }
  try {
    process.kill(owner.pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
  const { started, ended } = await lifeOf(owner.pid, files);
  const isOwn = owner.pid === process.pid && owner.started === started;
  if (isOwn && !locksHeld.has(path)) return false;
  // Where either start is unknown the pid alone decides.
  return !ended && (started === "" || owner.started === "" || started === owner.started);
}

/** The namespace this process's pid counts in; empty where the system does not say. */
async function namespaceOfPids(files: FileLayer): Promise<string> {
  try {
    return String((await files.stat("/proc/self/ns/pid", { bigint: true })).ino);
  } catch {
    return "";
  }
}

async function bootOf(files: FileLayer): Promise<string> {
  return (await readProc("/proc/sys/kernel/random/boot_id", files)).trim();
}

/**
 * What /proc says of a process: when it started (empty where that cannot be read), and whether it has ended already: a
 * zombie waits for its parent, in a container without an init for ever.
 */
export async function lifeOf(pid: number, files: FileLayer = nodeFiles): Promise<{ started: string; ended: boolean }> {
  const text = await readProc(`/proc/${pid}/stat`, files);
  const boot = await bootOf(files);
  // The command name may hold spaces; fields are counted after its closing parenthesis.
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  const start = fields[19] ?? "";
  return { started: start === "" || boot === "" ? "" : `${boot} ${start}`, ended: /^[ZXx]$/.test(fields[0]) };
}

/** A file that has no length until it is read; empty where it cannot be read whole. */
async function readProc(path: string, files: FileLayer): Promise<string> {
  try {
    const file = await files.open(path, "r");
    try {
      const buffer = new Uint8Array(4096);
      for (let length = 0; length < buffer.byteLength; ) {
        const { bytesRead } = await file.read(buffer, length, buffer.byteLength - length, length);
        if (bytesRead === 0) return new TextDecoder().decode(buffer.subarray(0, length));
        length += bytesRead;
      }
      return "";
    } finally {
      await closeQuietly(file);
    }
  } catch {
    return "";
  }
}
