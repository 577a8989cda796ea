import { readFile } from "node:fs/promises";
import { attempt } from "../../checkpoint/file-layer.js";
import { PhysariumError } from "../../errors.js";
import type { Organ } from "../config/organ-farm.js";
import { codeCompile } from "./code-compile.js";
import { jsonSchema, jsonStrict } from "./json-verifiers.js";
import { runProgram } from "./run-program.js";
import { sourcePresent } from "./source-present.js";
import { type Verifier, verdict } from "./verdict.js";

export interface VerifierOptions {
  /** Programs may be run: asked for where the farm is started, never by its file. */
  readonly allowCommands: boolean;
  /** Where programs run. */
  readonly folder: string;
}

/** An organ's verifier, its files read. Throws `USAGE_COMMANDS` for a program that nobody allowed. */
export async function openVerifier(organ: Organ, options: VerifierOptions): Promise<Verifier | undefined> {
  const text = (path: string): Promise<string> => attempt("reading", path, () => readFile(path, "utf8"));
  switch (organ.verifier) {
    case undefined:
      return undefined;
    case "json_strict":
      return jsonStrict;
    case "json_schema":
      return jsonSchema(JSON.parse(await text(organ.schema!)));
    case "code_compile":
      return codeCompile(organ.language);
    case "source_present":
      return sourcePresent(organ.sourceText === undefined ? undefined : await text(organ.sourceText));
    case "command":
      return commandVerifier(organ, options);
  }
}

function commandVerifier(organ: Organ, { allowCommands, folder }: VerifierOptions): Verifier {
  const { command = [], commandTimeoutMs } = organ;
  if (!allowCommands) {
    throw new PhysariumError(
      "USAGE_COMMANDS",
      `${organ.name}: its verifier runs ${command[0]}; give --allow-commands if you trust the farm's file`,
      { organ: organ.name, command },
    );
  }
  return async ({ answer }, signal) => {
    const { status, error, output } = await runProgram(command, answer, commandTimeoutMs, signal, folder);
    if (status === 0) return verdict("command", undefined);
    const last = output.trim().split("\n").at(-1)?.slice(0, 200) ?? "";
    return verdict("command", error ?? (last === "" ? `exit ${status}` : `exit ${status}: ${last}`));
  };
}
