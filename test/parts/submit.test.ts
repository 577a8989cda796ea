import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Ajv2020 } from "ajv/dist/2020.js";
import { beforeAll, describe, expect, test } from "vitest";
import { parse } from "yaml";
import { runPart } from "../../dist/parts/part-run.js";
import { secondsOf } from "../../dist/parts/submit/job.js";
import { physarium } from "../physarium.js";
import { FIXTURES } from "../shared.js";
import { temporaryFolder } from "../temporary.js";
import { prepare, writeMixedDonor } from "./parts.js";

const folder = temporaryFolder();
const output = join(folder, "my model's output");
const submit = (...flags: string[]) => physarium(["parts", "submit", output, ...flags]);
const SIZES = ["--cpus", "3", "--mem", "1500M", "--time", "0:40:00"];

beforeAll(async () => {
  const donor = join(folder, "donor");
  writeMixedDonor(donor);
  await prepare(donor, output, 9);
  for (const part of [0, 1, 4]) await runPart(output, part, { workers: 0 });
});

describe("slurm", () => {
  test("prints a script: the array, and behind it the job that joins", async () => {
    const { status, stdout, stderr } = await submit("--on", "slurm", ...SIZES, "--throttle", "2");
    expect(status, stderr).toBe(0);
    expect(spawnSync("bash", ["-n"], { input: stdout }).status).toBe(0);
    expect(stdout).toContain("#SBATCH --array=0-8%2\n");
    for (const line of ["--cpus-per-task=3", "--mem=1500M", "--time=0:40:00", "--requeue"])
      expect(stdout).toContain(`#SBATCH ${line}\n`);
    expect(stdout).toContain(`parts run '${output.replace("'", `'\\''`)}' --part "$SLURM_ARRAY_TASK_ID"`);
    expect(stdout).toMatch(/--dependency="afterok:\$\{parts_0%%;\*\}" --kill-on-invalid-dep=yes/);
  });

  test("what it prints is what a shell hands to sbatch: an array, then a job that depends on its number", async () => {
    const { stdout } = await submit("--on", "slurm", "--missing", "--array-size", "4");
    // An sbatch that writes down what it is given.
    const bin = join(folder, "sbatch");
    writeFileSync(bin, `#!/bin/bash\necho "args $*" >> "${folder}/sent"; cat >> "${folder}/sent"; echo 4711\n`, {
      mode: 0o755,
    });
    const env = { ...process.env, PATH: `${folder}:${process.env.PATH}` };
    const sent = spawnSync("bash", ["-s"], { input: stdout, env, encoding: "utf8" });
    expect(sent.stderr).toBe("");
    expect(sent.stdout).toBe("parts 4711 4711 4711, finish 4711\n");
    const text = readFileSync(join(folder, "sent"), "utf8");
    // Parts 2, 3, then 5-7, then 8: of arrays that begin at 0, 4 and 8.
    expect([...text.matchAll(/--array=(\S+)/g)].map(([, indices]) => indices)).toEqual(["2-3", "1-3", "0"]);
    expect([...text.matchAll(/--part (\S+( \+ \S+)?)/g)].map(([, index]) => index)).toEqual([
      '"$SLURM_ARRAY_TASK_ID"',
      '"$((4 + SLURM_ARRAY_TASK_ID))"',
      '"$((8 + SLURM_ARRAY_TASK_ID))"',
    ]);
    expect(text).toContain("args --parsable --dependency=afterok:4711:4711:4711 --kill-on-invalid-dep=yes");
  });

  test.each([
    [["--on", "slurm", "--mem", "much"], "--mem is"],
    [["--on", "slurm", "--time", "soon"], "--time is"],
    [["--on", "slurm", "--partition", "a b"], "--partition is"],
    [["--on", "elsewhere"], "--on <scheduler>"],
    [["--on", "kubernetes"], "--image"],
    [["--on", "kubernetes", "--image", "i", "--claim", "c", "--yes"], "kubectl apply"],
    [["--on", "kubernetes", "--image", "i", "--claim", "c", "--mount", "/elsewhere"], "does not lie in it"],
  ])("refuses %j", async (flags, words) => {
    const { status, stderr } = await submit(...flags);
    expect([status, stderr]).toEqual([2, expect.stringContaining(words)]);
  });
});

describe("kubernetes", () => {
  const schema = JSON.parse(readFileSync(join(FIXTURES, "kubernetes/job-batch-v1.json"), "utf8"));
  const validate = new Ajv2020({ strict: false }).compile(schema);
  const job = async (...flags: string[]) => {
    const { status, stdout, stderr } = await submit(
      ...["--on", "kubernetes", "--image", "registry/physarium:1", "--claim", "models", ...SIZES, ...flags],
    );
    expect(status, stderr).toBe(0);
    const parsed = parse(stdout);
    expect(validate(parsed), JSON.stringify(validate.errors)).toBe(true);
    return parsed;
  };

  test("the schema refuses what is no Job", async () => {
    const good = await job();
    expect(validate({ ...good, spec: { ...good.spec, completion: 3 } })).toBe(false);
    expect(validate({ ...good, spec: { ...good.spec, completions: "3" } })).toBe(false);
    expect(validate({ ...good, spec: { ...good.spec, podFailurePolicy: { rules: [{ actions: "Ignore" }] } } })).toBe(
      false,
    );
  });

  test("an indexed Job of as many pods as parts.json has parts, valid by the published schema", async () => {
    const { spec, metadata } = await job("--throttle", "2");
    expect(metadata.name).toMatch(/^[a-z0-9]([a-z0-9-]*[a-z0-9])?$/);
    expect(spec).toMatchObject({ completions: 9, parallelism: 2, completionMode: "Indexed", backoffLimitPerIndex: 5 });
    const { containers, restartPolicy, volumes, activeDeadlineSeconds } = spec.template.spec;
    expect([restartPolicy, activeDeadlineSeconds]).toEqual(["Never", 2400]);
    expect(volumes[0].persistentVolumeClaim.claimName).toBe("models");
    expect(containers[0].volumeMounts[0].mountPath).toBe(folder);
    expect(containers[0].resources.limits).toEqual({ cpu: "3", memory: "1500Mi" });
    const [ignored, failed] = spec.podFailurePolicy.rules;
    expect(ignored).toEqual({ action: "Ignore", onPodConditions: [{ type: "DisruptionTarget", status: "True" }] });
    expect(failed).toMatchObject({ action: "FailIndex", onExitCodes: { operator: "NotIn", values: [75, 137, 143] } });
    expect(failed.onExitCodes.containerName).toBe(containers[0].name);
  });

  test("an index finds its part: of all, and of those that are missing", async () => {
    for (const [flags, index, part] of [
      [[], 7, 7],
      [["--missing"], 0, 2],
      [["--missing"], 3, 6],
    ] as const) {
      const { spec } = await job("--command", "echo", ...flags);
      const [shell, option, script] = spec.template.spec.containers[0].command;
      const { stdout } = spawnSync(shell, [option, script], {
        env: { ...process.env, JOB_COMPLETION_INDEX: String(index) },
        encoding: "utf8",
      });
      expect(stdout).toBe(`parts run ${output} --part ${part} --workers 3\n`);
      expect(spec.completions).toBe(flags.length === 0 ? 9 : 6);
    }
  });

  test("the job that joins is valid, too", async () => {
    const { spec } = await job("--finish");
    expect(spec).toMatchObject({ completions: 1, backoffLimit: 5 });
    expect(spec.podFailurePolicy.rules[1].action).toBe("FailJob");
  });
});

test.each([
  ["90", 5400],
  ["2:30", 150],
  ["1:00:00", 3600],
  ["1-12", 129_600],
  ["2-00:30:00", 174_600],
])("a time as Slurm writes it: %s", (text, seconds) => {
  expect(secondsOf(text)).toBe(seconds);
});
