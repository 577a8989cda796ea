import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { attempt } from "../../checkpoint/file-layer.js";
import { PhysariumError } from "../../errors.js";
import { takeLock } from "../../output/lock.js";
import { syncFolder, writeSmallFile } from "../../output/small-file.js";
import { findProblems } from "./find-problems.js";
import { parseLocated } from "./located-json.js";
import { FARM_FILE, farmError, type ReadOptions, readFarmFile } from "./read-config.js";

interface RawFile {
  bodies: Record<string, Record<string, unknown>>;
  organs: Record<string, unknown>[];
  [more: string]: unknown;
}

/** Make the file of an empty farm. Throws `USAGE_OUTPUT_EXISTS` where one stands. */
export async function initFarm(folder: string, budget: Record<string, string>, tierDefault: string): Promise<string> {
  const path = join(resolve(folder), FARM_FILE);
  if (existsSync(path)) {
    throw new PhysariumError("USAGE_OUTPUT_EXISTS", `${path}: there is a farm already; physarium farm add changes it`, {
      path,
    });
  }
  await attempt("creating", dirname(path), () => mkdir(dirname(path), { recursive: true }));
  const value: RawFile = { version: 1, tier_default: tierDefault, budget, bodies: {}, organs: [] };
  await change(path, async () => ({ value, known: new Set() }), {});
  return path;
}

/** Add a body, or change the members that are given. */
export function addBody(path: string, name: string, members: Record<string, unknown>, options: ReadOptions) {
  return edit(path, options, (value) => {
    value.bodies[name] = { ...value.bodies[name], ...members };
  });
}

/** Add an organ, or change the members that are given. */
export function addOrgan(path: string, name: string, members: Record<string, unknown>, options: ReadOptions) {
  return edit(path, options, (value) => {
    const at = value.organs.findIndex((organ) => organ.name === name);
    if (at < 0) value.organs.push({ name, ...members });
    else value.organs[at] = { ...value.organs[at], ...members };
  });
}

/** Remove an organ, or a body that no organ uses any more. */
export function removeFromFarm(path: string, name: string, options: ReadOptions) {
  return edit(path, options, (value) => {
    const at = value.organs.findIndex((organ) => organ.name === name);
    if (at >= 0) {
      value.organs.splice(at, 1);
      return;
    }
    if (!Object.hasOwn(value.bodies, name)) {
      throw new PhysariumError("USAGE_ARGUMENT", `${path}: there is no organ and no body "${name}"`, { name });
    }
    const users = value.organs.filter(({ body }) => body === name).map((organ) => organ.name);
    if (users.length > 0) {
      throw new PhysariumError(
        "USAGE_ARGUMENT",
        `${path}: the body "${name}" is used by ${users.join(", ")}; remove or move those first`,
        { name, users },
      );
    }
    delete value.bodies[name];
  });
}

/** Change the file as a whole: a change that would leave it wrong is refused, and nothing is written. */
function edit(path: string, options: ReadOptions, body: (value: RawFile) => void): Promise<void> {
  return change(
    path,
    async () => {
      const file = await readFarmFile(path);
      const faults = await findProblems(file, options);
      // A file that is wrong can be mended by a change; one that is no such file cannot be changed.
      const value = file.json.value as RawFile | undefined;
      const isFarm = typeof value?.bodies === "object" && value.bodies !== null && Array.isArray(value.organs);
      if (!isFarm || file.json.faults.length > 0) throw farmError(path, faults);
      body(value);
      return { value, known: new Set(faults.map(({ message }) => message)) };
    },
    options,
  );
}

async function change(
  path: string,
  make: () => Promise<{ value: RawFile; known: ReadonlySet<string> }>,
  options: ReadOptions,
): Promise<void> {
  const lock = await takeLock(`${path}.partial`);
  try {
    const { value, known } = await make();
    const text = `${JSON.stringify(value, null, 2)}\n`;
    const problems = await findProblems({ path, text, json: parseLocated(text) }, options);
    // What was wrong before, a folder that is gone for one, does not stand in the way of another change.
    const added = problems.filter(({ message }) => !known.has(message));
    if (added.length > 0) throw farmError(path, added);
    await writeSmallFile(path, text);
    await syncFolder(dirname(path));
  } finally {
    await lock.release();
  }
}
