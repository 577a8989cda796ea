import * as v from "valibot";
import { readSmallFile } from "../../checkpoint/file-layer.js";
import { isPhysariumError } from "../../errors.js";
import { lifeOf } from "../../output/lock-owner.js";
import { writeSmallFile } from "../../output/small-file.js";
import { Count, Finite, readJson, Words } from "../../record/read-json.js";

/** A process of the farm's, told from whoever has its pid later by its start. */
const Child = v.object({ body: Words, pid: Count, started: Words });

const Score = v.object({ food: Finite, poison: Finite, energy: Finite, answers: Count });

const Schema = v.object({
  version: v.literal(1),
  at: Words,
  server: v.nullable(v.object({ pid: Count, started: Words })),
  children: v.array(Child),
  bodies: v.record(
    v.string(),
    v.object({
      status: Words,
      form: v.nullable(Words),
      tier: Words,
      gpu_layers: Count,
      generation: Count,
      ram_bytes: Count,
      vram_bytes: Count,
      pinned: v.boolean(),
    }),
  ),
  organs: v.record(v.string(), v.object({ score: Score, pinned: v.boolean() })),
});

/** `farm-state/tier_state.json`: what is where, and what each organ was worth. Whole at any moment, old or new. */
export type TierState = v.InferOutput<typeof Schema>;
export type ChildRecord = v.InferOutput<typeof Child>;

/** `undefined` where there is none, or none that can be believed: it is made anew then. */
export async function readTierState(path: string): Promise<TierState | undefined> {
  try {
    return readJson(await readSmallFile(path), Schema, (fault) => new Error(fault) as never);
  } catch (error) {
    if (isPhysariumError(error, "IO_") && !isPhysariumError(error, "IO_NOT_FOUND")) throw error;
    return undefined;
  }
}

export function writeTierState(path: string, state: TierState): Promise<void> {
  return writeSmallFile(path, `${JSON.stringify(state, null, 2)}\n`);
}

export async function startOf(pid: number): Promise<string> {
  return (await lifeOf(pid)).started;
}

/** End what a killed farm left behind. A pid that is somebody else's now is let alone. */
export async function endOrphans(children: readonly ChildRecord[]): Promise<ChildRecord[]> {
  const ended: ChildRecord[] = [];
  for (const child of children) {
    const life = await lifeOf(child.pid);
    if (life.ended || life.started === "" || life.started !== child.started) continue;
    try {
      process.kill(child.pid, "SIGKILL");
      ended.push(child);
    } catch {
      // Gone in this moment.
    }
  }
  return ended;
}
