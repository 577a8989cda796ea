import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Ajv2020, type ValidateFunction } from "ajv/dist/2020.js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { buildProgram } from "../../dist/cli/program.js";
import { commandsUnder, pathOf } from "../../dist/cli/tree/walk.js";
import { FakeHub } from "../hub/fake-hub.js";
import { COMMIT, filesOf } from "../hub/models.js";
import { physarium } from "../physarium.js";
import { hasEngine } from "../probe/engine-present.js";
import { LOAM } from "../shared.js";
import { temporaryFolder } from "../temporary.js";
import { NOT_RUN, outputRuns } from "./output-runs.js";

type Schema = Record<string, unknown>;

const published = JSON.parse(readFileSync("schemas/outputs.schema.json", "utf8")) as Schema & { $defs: Schema };

/** Readers are promised that members may come; here each that comes has to be described, or the test fails. */
function closed(schema: unknown): unknown {
  if (Array.isArray(schema)) return schema.map(closed);
  if (typeof schema !== "object" || schema === null) return schema;
  const inner = Object.fromEntries(Object.entries(schema).map(([key, value]) => [key, closed(value)]));
  return "properties" in schema && "required" in schema ? { ...inner, additionalProperties: false } : inner;
}

const validators = [published, closed(published) as Schema].map((schema, at) => {
  const ajv = new Ajv2020({ allErrors: true, strict: true, allowUnionTypes: true });
  ajv.addSchema({ ...schema, $id: `outputs-${at}` });
  return (command: string): ValidateFunction => {
    const validate = ajv.getSchema(`outputs-${at}#/$defs/${encodeURIComponent(command)}`);
    if (validate === undefined) throw new Error(`schemas/outputs.schema.json has no definition of "${command}"`);
    return validate;
  };
});

function faults(command: string, output: unknown): string[] {
  return validators.flatMap((validatorOf) => {
    const validate = validatorOf(command);
    if (validate(output)) return [];
    return validate.errors!.map(
      ({ instancePath, message, params }) => `${instancePath} ${message} ${JSON.stringify(params)}`,
    );
  });
}

const root = temporaryFolder();
const runs = outputRuns(root, { org: "org/loam" });
let hub: FakeHub;
let env: Record<string, string>;

beforeAll(async () => {
  hub = await FakeHub.start();
  hub.repositories.set("org/loam", { commit: COMMIT, files: filesOf(LOAM) });
  env = { HF_ENDPOINT: hub.endpoint, HF_HUB_CACHE: join(root, "cache"), HF_TOKEN: "hf_write" };
});
afterAll(() => hub.stop());

describe("what a command prints with --json is what its schema says", () => {
  test.each(runs.map((run, at) => [`${at + 1} ${run.command}`, run] as const))("%s", async (_, run) => {
    if (run.needs === "engine" && !hasEngine) return;
    const args = [...run.command.split(" "), ...run.args, "--json"];
    const { status, stdout, stderr } = await physarium(args, { env });
    if (run.exit !== "any") expect(status, stderr).toBe(run.exit ?? 0);
    expect(faults(run.command, JSON.parse(stdout))).toEqual([]);
    // Behind whatever the run told before, the reason is the last line.
    if (status !== 0) expect(faults("error", JSON.parse(stderr.trimEnd().split("\n").at(-1)!))).toEqual([]);
  });

  test("and an output that lacks a member, or has one that is not described, is found", () => {
    const sound = { repository: "me/x", commit: "0", url: "u", files: 1, bytes_sent: 2 };
    expect(faults("push", sound)).toEqual([]);
    expect(faults("push", { ...sound, bytes_sent: "2" })).not.toEqual([]);
    expect(faults("push", { ...sound, more: 1 })).not.toEqual([]);
    const { url: _, ...short } = sound;
    expect(faults("push", short)).not.toEqual([]);
  });
});

test("every command that answers in JSON has its schema and its run, or is named among those that have none", async () => {
  const said = [...commandsUnder(await buildProgram())]
    .filter((command) => command.commands.length === 0 && command.options.some(({ long }) => long === "--json"))
    .map((command) => pathOf(command).replace(/^physarium /, ""));
  const run = new Set(runs.map(({ command }) => command));
  expect([...new Set([...run, ...NOT_RUN])].sort()).toEqual([...said].sort());
  for (const command of run) expect(published.$defs, command).toHaveProperty([command]);
});
