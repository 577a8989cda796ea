#!/usr/bin/env node
// The thread pool of file operations is sized at its first use: several reads and writes in flight for each worker.
process.env.UV_THREADPOOL_SIZE ??= "16";

import { CommanderError } from "commander";
import { ioError } from "../checkpoint/file-layer.js";
import { exitCodeOf, isPhysariumError, jsonLine, PhysariumError, printable } from "../errors.js";
import { processLimit } from "../limits.js";
import { emitEvent, tellsEvents } from "./events.js";
import { clearProgress } from "./progress.js";
import { endOnSignal, stopSignal } from "./stop-signal.js";

/** What our modules and a model of some shards take at most, with room above. */
const FILES_NEEDED = 512;
/** Asked now: where no file can be opened any more, nobody can. */
const filesAllowed = processLimit("Max open files");

/** Refusals of options and arguments say where they are explained. */
const EXPLAINED = /^USAGE_(?:ARGUMENT|PARAM|PROTOCOL|FLOW|METHOD|SPARSITY|SAMPLING|GATE|RECIPE)$/;

// The reader went away (`| head`): what is under way is done all the same, and the exit code tells how it went. A
// result that could not be written for another reason is lost, and that is said.
process.stderr.on("error", () => {});
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE" || process.exitCode) return;
  process.exitCode = report(ioError("writing", "standard output", error));
});

// Loading our modules takes its time, too. Schedulers read the exit code of parts: what they stop at its very beginning
// is told by the command, as later.
if (process.argv[2] === "parts") stopSignal();
else endOnSignal("nothing was written");

const started = performance.now();
/** The command that was asked for, as far as it is known. */
let asked = "physarium";
try {
  // Behind the `try`: opening all our modules at once is where a low limit of open files shows first.
  const [{ buildProgram }, { commandsFor }] = await Promise.all([import("./program.js"), import("./commands.js")]);
  const { pathOf } = await import("./tree/walk.js");
  const program = await buildProgram(commandsFor(process.argv.slice(2)));
  program.hook("preAction", (_, command) => {
    asked = pathOf(command);
  });
  await program.parseAsync();
} catch (error) {
  process.exitCode = report(error) || process.exitCode;
}
emitEvent("ended", { exit: process.exitCode ?? 0, seconds: (performance.now() - started) / 1000 });

/** Print an error as its kind deserves; returns the exit code. */
function report(error: unknown): number {
  const known = error instanceof CommanderError ? fromCommander(error) : (limitOf(error) ?? error);
  if (known === undefined) return 0;
  clearProgress();
  const { code, details } = isPhysariumError(known) ? known : { code: "INTERNAL", details: {} };
  const message = isPhysariumError(known) ? withHelp(known) : String(known);
  if (tellsEvents()) {
    emitEvent("error", { code, message, details });
  } else if (process.argv.includes("--json")) {
    process.stderr.write(jsonLine({ event: "error", code, message, details }));
  } else if (isPhysariumError(known) && exitCodeOf(known) !== 70) {
    process.stderr.write(`physarium: ${message} [${code}]\n`);
  } else {
    const stack = known instanceof Error ? (known.stack ?? known.message) : String(known);
    process.stderr.write(
      "physarium: this is a bug of ours; please report it with the lines below and the command you " +
        `gave\n${printable(stack, true)}\n`,
    );
  }
  return exitCodeOf(known);
}

function withHelp({ code, message }: PhysariumError): string {
  return EXPLAINED.test(code) && !message.includes("--help") ? `${message}; see ${asked} --help` : message;
}

/** Commander's refusals are usage errors; its help and version are none at all. */
function fromCommander(error: CommanderError & { commandPath?: string }): PhysariumError | undefined {
  if (error.exitCode === 0) return undefined;
  if (error.code === "commander.help") {
    return new PhysariumError("USAGE_COMMAND", "expected a command; see physarium --help");
  }
  const words = error.message.replace(/^error: |\.$/g, "").replaceAll("\n", " ");
  return new PhysariumError("USAGE_ARGUMENT", `${words}; see ${error.commandPath ?? "physarium"} --help`);
}

/** The limit of this process that an error nobody foresaw comes from, or `undefined`. */
function limitOf(error: unknown): PhysariumError | undefined {
  if (isPhysariumError(error)) return undefined;
  const { code } = error as NodeJS.ErrnoException;
  // Where a file of a module cannot be opened, Node says that there is none.
  const isModuleLost = code === "ERR_MODULE_NOT_FOUND" && filesAllowed < FILES_NEEDED;
  if (code === "EMFILE" || code === "ENFILE" || isModuleLost) {
    return new PhysariumError(
      "USAGE_LIMIT",
      "this process may not open as many files as it needs; allow more with ulimit -n 1024",
      { code },
      error,
    );
  }
  try {
    new WebAssembly.Memory({ initial: 1 });
    if (!(error instanceof RangeError) || processLimit("Max address space") === Number.POSITIVE_INFINITY)
      return undefined;
    throw error;
  } catch {
    return new PhysariumError(
      "USAGE_LIMIT",
      "this process gets no address space for its kernels, which reserve some 10 GiB each and use little of it; " +
        "allow more with ulimit -v unlimited",
      {},
      error,
    );
  }
}
