import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { attempt, nodeFiles, readSmallFile } from "../../checkpoint/file-layer.js";
import { PhysariumError } from "../../errors.js";
import { type Lock, takeLock } from "../../output/lock.js";
import { outputNames, refuseOverlap } from "../../output/place.js";
import { removeTemporaries, writeSmallFile } from "../../output/small-file.js";
import { emitEvent, tellsEvents } from "../events.js";
import { commandLine, type RunOptions, runCommand } from "./run-command.js";

const FILE = "steps.json";

interface Record {
  readonly physarium_steps: 1;
  /** What is done here; another aim is another folder. */
  readonly aim: string;
  readonly done: {
    readonly command: string;
    /** Its words; absent in records of earlier versions. */
    readonly args?: readonly string[];
    readonly exit: number;
    readonly output: string;
  }[];
}

/** The commands of a longer work that are done, with what they answered, in a folder of its own: what is there is not done again. */
export class Journal {
  private constructor(
    readonly folder: string,
    private readonly record: Record,
    private readonly lock: Lock,
  ) {}

  /**
   * Open or begin the journal of a work. Throws `USAGE_LOCKED` where another run is at it, `USAGE_OUTPUT_OVERLAP`,
   * `USAGE_OUTPUT_EXISTS` for a folder that is none of ours or was begun with another aim.
   */
  static async open(folder: string, aim: string, inputs: readonly string[]): Promise<Journal> {
    const path = join(folder, FILE);
    const names = await outputNames(path);
    await refuseOverlap(names, inputs);
    await attempt("making the folder", folder, () => mkdir(folder, { recursive: true }));
    const lock = await takeLock(names.partialPath);
    try {
      await removeTemporaries(folder, nodeFiles, FILE);
      return new Journal(folder, await readRecord(path, folder, aim), lock);
    } catch (error) {
      await lock.release().catch(() => {});
      throw error;
    }
  }

  /** Run a command, or take its answer from before. `more` are arguments that make no other command of it. */
  async step(
    args: readonly string[],
    options: RunOptions,
    more: readonly string[] = [],
  ): Promise<{ exit: number; output: string; isEarlier: boolean }> {
    const command = commandLine(args);
    const known = this.record.done.find((each) => each.command === command);
    if (known !== undefined) {
      emitEvent("note", { message: `done before: ${command}` });
      if (!options.quiet && !tellsEvents()) process.stderr.write(`  (done before) ${command}\n`);
      return { exit: known.exit, output: known.output, isEarlier: true };
    }
    const { exit, output } = await runCommand([...args, ...more], options);
    this.record.done.push({ command, args, exit, output });
    await this.save();
    return { exit, output, isEarlier: false };
  }

  /** The commands that are done, word by word, in their order. */
  get commands(): readonly (readonly string[])[] {
    return this.record.done.flatMap(({ args }) => (args === undefined ? [] : [args]));
  }

  close(): Promise<void> {
    return this.lock.release();
  }

  private save(): Promise<void> {
    return writeSmallFile(join(this.folder, FILE), `${JSON.stringify(this.record, null, 1)}\n`);
  }
}

async function readRecord(path: string, folder: string, aim: string): Promise<Record> {
  const bytes = await readSmallFile(path, nodeFiles, 1 << 28).catch(() => undefined);
  if (bytes === undefined) return { physarium_steps: 1, aim, done: [] };
  const refuse = (why: string): PhysariumError =>
    new PhysariumError("USAGE_OUTPUT_EXISTS", `${folder}: ${why}; give another output, or remove that folder`, {
      folder,
    });
  let record: Record;
  try {
    record = JSON.parse(new TextDecoder().decode(bytes)) as Record;
  } catch {
    throw refuse("its steps.json is no record of ours");
  }
  if (record.physarium_steps !== 1 || !Array.isArray(record.done)) throw refuse("its steps.json is no record of ours");
  if (record.aim !== aim) throw refuse(`what was begun here had another aim (${record.aim})`);
  return record;
}
