import { createHash } from "node:crypto";
import { createReadStream, existsSync } from "node:fs";
import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import * as v from "valibot";
import { attempt, readSmallFile } from "../../checkpoint/file-layer.js";
import { isPhysariumError, PhysariumError } from "../../errors.js";
import { writeSmallFile } from "../../output/small-file.js";
import { Count, readJson } from "../../record/read-json.js";
import { type Admission, AdmissionSchema, servable } from "../admit/admission.js";
import type { OrganFarm } from "../config/organ-farm.js";

/**
 * `farm-state/` beside organ_farm.json.
 *
 * ```
 * journal.jsonl                       what happened, appended
 * tier_state.json                     what is where, scores, children: written whole, never half
 * serve.json                          where the server listens, while there is one
 * bodies/<body>/current.json          the generation that is served
 * bodies/<body>/<n>/admission.json    what admission found
 * bodies/<body>/<n>/<form>.gguf       the form, digest in admission.json
 * ```
 */
export class StateFolder {
  readonly path: string;

  constructor({ folder }: Pick<OrganFarm, "folder">) {
    this.path = join(folder, "farm-state");
  }

  get journal(): string {
    return join(this.path, "journal.jsonl");
  }

  get tierState(): string {
    return join(this.path, "tier_state.json");
  }

  /** Held by the server; a second one is refused. */
  get serverLock(): string {
    return join(this.path, "server");
  }

  get serving(): string {
    return join(this.path, "serve.json");
  }

  body(body: string): string {
    return join(this.path, "bodies", body);
  }

  generation(body: string, generation: number): string {
    return join(this.body(body), String(generation));
  }

  /** Generations of a body, finished or not, the oldest first. */
  async generations(body: string): Promise<number[]> {
    const folder = this.body(body);
    if (!existsSync(folder)) return [];
    const names = await attempt("listing", folder, () => readdir(folder));
    return names
      .filter((name) => /^[1-9][0-9]*$/.test(name))
      .map(Number)
      .sort((a, b) => a - b);
  }

  /** The admission of a generation, or `undefined` where it was never finished. */
  async admission(body: string, generation: number): Promise<Admission | undefined> {
    const path = join(this.generation(body, generation), "admission.json");
    return readOptional(path, AdmissionSchema);
  }

  async writeAdmission(admission: Admission): Promise<void> {
    const path = join(this.generation(admission.body, admission.generation), "admission.json");
    await writeSmallFile(path, `${JSON.stringify(admission, null, 2)}\n`);
  }

  /** The generation that is served, or `undefined` where none was accepted yet. */
  async currentGeneration(body: string): Promise<number | undefined> {
    return (await readOptional(join(this.body(body), "current.json"), Current))?.generation;
  }

  async setCurrent(body: string, generation: number): Promise<void> {
    await writeSmallFile(join(this.body(body), "current.json"), `${JSON.stringify({ generation })}\n`);
  }

  /** What is served of a body. */
  async current(body: string): Promise<Admission | undefined> {
    const generation = await this.currentGeneration(body);
    return generation === undefined ? undefined : this.admission(body, generation);
  }

  /** Accepted generations whose files are still there, the oldest first. */
  async accepted(body: string): Promise<Admission[]> {
    const found: Admission[] = [];
    for (const generation of await this.generations(body)) {
      const admission = await this.admission(body, generation);
      if (admission?.accepted !== true) continue;
      if (servable(admission).every(({ file }) => existsSync(join(this.generation(body, generation), file))))
        found.push(admission);
    }
    return found;
  }

  /** Remove the forms of all accepted generations but these. */
  async keepForms(body: string, kept: readonly number[]): Promise<void> {
    for (const { generation } of await this.accepted(body)) {
      if (!kept.includes(generation)) await this.dropForms(body, generation);
    }
  }

  /** Remove a generation's forms; its record stays. */
  async dropForms(body: string, generation: number): Promise<void> {
    const folder = this.generation(body, generation);
    if (!existsSync(folder)) return;
    for (const name of await attempt("listing", folder, () => readdir(folder))) {
      if (!/\.gguf(?:\.partial.*)?$/.test(name)) continue;
      const path = join(folder, name);
      await attempt("removing", path, () => rm(path, { force: true }));
    }
  }

  /** Every body's current admission. */
  async admissions(farm: OrganFarm): Promise<Map<string, Admission>> {
    const found = new Map<string, Admission>();
    for (const body of farm.bodies.keys()) {
      const admission = await this.current(body);
      if (admission !== undefined) found.set(body, admission);
    }
    return found;
  }
}

const Current = v.object({ generation: Count });

async function readOptional<T>(path: string, schema: v.GenericSchema<unknown, T>): Promise<T | undefined> {
  let bytes: Uint8Array;
  try {
    bytes = await readSmallFile(path);
  } catch (error) {
    if (isPhysariumError(error, "IO_NOT_FOUND")) return undefined;
    throw error;
  }
  const refuse = (fault: string, cause?: unknown): PhysariumError =>
    new PhysariumError(
      "VERIFY_FARM_STATE",
      `${path}: ${fault}; restore it, or remove its folder and admit again`,
      { path },
      cause,
    );
  return readJson(bytes, schema, refuse);
}

/** SHA-256 of a form's file, hexadecimal, and its length. */
export async function digestOf(path: string): Promise<{ sha256: string; byteLength: number }> {
  const hash = createHash("sha256");
  let byteLength = 0;
  await attempt("reading", path, async () => {
    for await (const bytes of createReadStream(path, { highWaterMark: 1 << 20 })) {
      hash.update(bytes as Buffer);
      byteLength += (bytes as Buffer).byteLength;
    }
  });
  return { sha256: hash.digest("hex"), byteLength };
}

/** SHA-256 of texts in order, hexadecimal: what ties a form's file to its ledger. */
export function tie(...parts: readonly string[]): string {
  return createHash("sha256").update(parts.join("\n")).digest("hex");
}
